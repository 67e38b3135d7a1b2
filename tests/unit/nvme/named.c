/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives by serial: found where bind wrote it down, at whatever address that is now; and what
 * cannot be found says why. In a machine that is a folder. (The drive itself is asked in tests/vm.)
 *
 * Seen to fail with serials compared as far as the shorter goes, with devices that are gone taken
 * for there, and with the namespace left out.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "nvme/named.h"

static char root[] = "named-XXXXXX";

static void shell(const char *format, const char *one, const char *other)
{
    char command[512];

    snprintf(command, sizeof(command), format, root, one, root, other);
    assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
}

static void bound(const char *address, const char *serial)
{
    char text[256];

    snprintf(text, sizeof(text),
             "mkdir -p %s/run/tutti/bound %s/sys/bus/pci/devices/%s && "
             "printf 'serial %s\\nmodel M\\n' > %s/run/tutti/bound/%s",
             root, root, address, serial, root, address);
    assert_int_equal(system(text), 0); // NOLINT(cert-env33-c)
}

static void resolves(const char *name, int code, const char *words)
{
    struct tutti_error err = {0};
    char to[NVME_NAME] = "";
    int rc = nvme_named_resolve(root, name, to, &err);

    assert_int_equal(rc, code);
    if (!strstr(rc ? err.message : to, words))
        fail_msg("%s: %s", name, rc ? err.message : to);
    if (rc == 0)
        assert_string_equal(to, words);
}

static void by_serial(void **state)
{
    char serial[NVME_NAME];
    (void)state;

    assert_false(nvme_named_serial("nvme:0000:01:00.0", serial));
    assert_true(nvme_named_serial("nvme:serial=S1/2", serial));
    assert_string_equal(serial, "S1");
    resolves("nvme:serial=S1", -ENODEV, "tutti bind");
    bound("0000:01:00.0", "S12   "); /* as sysfs has them: with blanks */
    resolves("nvme:serial=S1", -ENODEV, "tutti devices");
    resolves("nvme:serial=S12", 0, "nvme:0000:01:00.0");
    resolves("nvme:serial=S12/2", 0, "nvme:0000:01:00.0/2");
    shell("rm -r %s/sys/bus/pci/devices/%s && test -e %s/run/tutti/bound/%s", "0000:01:00.0",
          "0000:01:00.0");
    resolves("nvme:serial=S12", -ENODEV, "tutti devices");
    bound("0000:41:00.0", "S12"); /* the same drive after hardware was added */
    resolves("nvme:serial=S12", 0, "nvme:0000:41:00.0");
    bound("0000:42:00.0", "S12");
    resolves("nvme:serial=S12", -ENOTUNIQ, "PCI address");
    shell("mkdir -p %s/sys/class/nvme/%s && echo 'S7  ' > %s/sys/class/nvme/%s/serial", "nvme0",
          "nvme0");
    resolves("nvme:serial=S7", -ENXIO, "tutti bind S7");
    resolves("nvme:serial=", -EINVAL, "nvme:serial=SERIAL");
    resolves("nvme:serial=S12/123456789012", -EINVAL, "NAMESPACE");
    shell("rm -r %s%s && test ! -e %s%s", "", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_serial)};

    if (!mkdtemp(root))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
