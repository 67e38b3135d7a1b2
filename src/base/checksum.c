/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checksum.c: which variant of the sums this machine runs.
 *
 * XXH3 gives the same value with every instruction set; wider vectors only
 * make it sooner (0.052 against 0.072 CPU-seconds a GiB, cold, AVX2 against
 * SSE2; shared figures of 2026-11-24).
 */
#include "base/checksum.h"

uint64_t tutti_sum64_base(const void *data, size_t bytes);
uint64_t tutti_layer_sum_base(const void *const *part, uint32_t parts, uint64_t part_bytes);

#ifdef TUTTI_SUM_AVX2
uint64_t tutti_sum64_avx2(const void *data, size_t bytes);
uint64_t tutti_layer_sum_avx2(const void *const *part, uint32_t parts, uint64_t part_bytes);
#define WIDE(call_base, call_avx2) (__builtin_cpu_supports("avx2") ? (call_avx2) : (call_base))
#else
#define WIDE(call_base, call_avx2) (call_base)
#endif

uint64_t tutti_sum64(const void *data, size_t bytes)
{
    return WIDE(tutti_sum64_base(data, bytes), tutti_sum64_avx2(data, bytes));
}

uint64_t tutti_layer_sum(const void *const *part, uint32_t parts, uint64_t part_bytes)
{
    return WIDE(tutti_layer_sum_base(part, parts, part_bytes),
                tutti_layer_sum_avx2(part, parts, part_bytes));
}
