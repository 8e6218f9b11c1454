# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    the tests of the drivers, conformance and faults among them, with huge pages, dma-buf heaps and VM_PFNMAP perf pages (which 6.12 lacks)
#: tests    pageless-drivers
#: kernels  7.3
#: seconds  600

echo 64 >/proc/sys/vm/nr_hugepages
run_tests
