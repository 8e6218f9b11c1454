# SPDX-License-Identifier: MIT OR Apache-2.0
# The devices a test may name in its header, as arguments of QEMU and of the kernel.
# Their images are made for each run, sparse, in the run's own folder; one that is there is kept.

# Adds to the arrays `qemu_args` and `kernel_args`.
add_device() { # name[=size] folder
    local name=${1%%=*} size image
    image=$2/$name.img
    size=${1#"$name"}
    size=${size#=}
    case $name in
        # Memory of the host behind BAR 2 of a PCI function, behind a port that can be unplugged.
        ivshmem)
            truncate -s "${size:-16M}" "$image"
            qemu_args+=(-object "memory-backend-file,id=ivshmem-memory,share=on,mem-path=$image,size=${size:-16M}"
                -device pcie-root-port,id=port-ivshmem,chassis=1,slot=1
                -device ivshmem-plain,memdev=ivshmem-memory,id=ivshmem,bus=port-ivshmem) ;;
        # Persistent memory with labels: /dev/pmem0, to be made a namespace of with ndctl. The label area comes on top of
        # a size that is a multiple of 2 MiB, or the next module is misaligned.
        nvdimm)
            truncate -s $((512 * 1024 + 128))K "$image"
            qemu_args+=(-object "memory-backend-file,id=nvdimm-memory,share=on,mem-path=$image,size=$((512 * 1024 + 128))K,align=2M"
                -device nvdimm,id=nvdimm,memdev=nvdimm-memory,label-size=128K) ;;
        # The same without labels: all of it is one namespace, so that byte 0 of the image is byte 0 of the namespace.
        nvdimm-plain)
            truncate -s "${size:-64M}" "$image"
            qemu_args+=(-object "memory-backend-file,id=plain-memory,share=on,mem-path=$image,size=${size:-64M},align=2M"
                -device nvdimm,id=plain,memdev=plain-memory) ;;
        # What the platform promises of the caches of all of them, when the power goes: eADR.
        eadr) qemu_args+=(-machine nvdimm-persistence=cpu) ;;
        # A processor that tells of memory errors as Intel's do: the kernel takes an AMD one's for the end.
        intel-cpu) qemu_args+=(-cpu max,vendor=GenuineIntel,family=6,model=85) ;;
        # Memory of the host that only the host can make durable, when the guest asks for it.
        virtio-pmem)
            truncate -s "${size:-128M}" "$image"
            qemu_args+=(-object "memory-backend-file,id=virtio-pmem-memory,share=on,mem-path=$image,size=${size:-128M}"
                -device virtio-pmem-pci,memdev=virtio-pmem-memory,id=virtio-pmem) ;;
        nvme)
            truncate -s "${size:-64M}" "$image"
            qemu_args+=(-drive "if=none,id=nvme-drive,file=$image,format=raw"
                -device pcie-root-port,id=port-nvme,chassis=2,slot=2
                -device nvme,drive=nvme-drive,serial=guest,id=nvme,bus=port-nvme) ;;
        # A disk that a server on this machine has, `vhost-user=pmem` or another kind of ours, with two queues, and with what else is
        # said after a comma. QEMU shares the guest's memory with it, and connects again when it is gone.
        vhost-user)
            start_server "${size%%,*}" "$2"
            if [ ${#servers[@]} -eq 1 ]; then
                qemu_args+=(-object memory-backend-memfd,id=shared,share=on,seal=off,size=1536M -machine memory-backend=shared)
                kernel_args+=("kills=${PAGELESS_CUTS:-3}")
            fi
            qemu_args+=(-chardev "socket,id=vhost-${size%%,*},path=$sockets/${size%%,*},reconnect=1"
                -device "vhost-user-blk-pci,num-queues=2,chardev=vhost-$size") ;;
        # Must stand before the devices it is to translate for; `run` sees to that.
        intel-iommu)
            qemu_args=(-device intel-iommu,intremap=on,caching-mode=on "${qemu_args[@]}")
            kernel_args+=(intel_iommu=on) ;;
        *) die "no device is called $1: see guest/host/devices.sh" ;;
    esac
}
