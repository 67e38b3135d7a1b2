#include "guest.h"
const struct test trouble_tests[] = {{0}};
