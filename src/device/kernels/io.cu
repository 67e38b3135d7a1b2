/* SPDX-License-Identifier: Apache-2.0 */
/* io.cu: the I/O kernel for CUDA; see io_kernel.h. One warp a block (device/launch.h). */
#include "device/kernels/io_kernel.h"

extern "C" __global__ void tutti_io(uint64_t word)
{
    io_kernel(word);
}
