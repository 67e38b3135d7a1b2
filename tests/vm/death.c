#include "guest.h"
const struct test death_tests[] = {{0}};
