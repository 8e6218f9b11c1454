// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line. Specs stay text here: the commands parse them, so that every bad one is shown the same way.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pageless::drivers::btt::info::Uuid;
use pageless::drivers::btt::layout::Placement;

/// I/O to memory that has no struct page, or that the kernel will not pin.
#[derive(Debug, Parser)]
#[command(
    name = "pageless",
    version,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  pageless serve                                      a 1 GiB disk at unix:./pageless.sock, nothing to set up
  pageless copy file:/data/x.img secret:64M --verify  a file into memory the kernel cannot pin
  pageless region probe secret:4M ram:16M             what may be done with memory
  pageless run -- fio job.fio                         a program that gets EFAULT from O_DIRECT
  pageless btt check /mnt/pm/disk.btt                 a disk of atomic sectors, checked
  pageless help specs                                 every kind of memory and device"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    Copy(CopyArgs),
    Run(RunArgs),
    /// Memory itself
    Region {
        #[command(subcommand)]
        command: RegionCommand,
    },
    /// Block translation tables: disks in memory whose sectors no power failure tears
    Btt {
        #[command(subcommand)]
        command: BttCommand,
    },
    /// Show this help, a command's, or `specs`
    #[command(after_help = "\
Examples:
  pageless help specs
  pageless help region probe")]
    Help {
        /// `specs`, or a command
        topic: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    Probe(ProbeArgs),
}

/// Serve a disk to NBD clients and virtual machines until SIGINT or SIGTERM
#[derive(Debug, Args)]
#[command(after_help = "\
Without DEVICE: makes ./pageless.img (1 GiB, sparse) unless it is there. Without --nbd and --vhost-user: --nbd unix:./pageless.sock.
Prints `ready nbd ADDRESS` and `ready vhost-user PATH` on stdout once each accepts. A stale socket is replaced, a live one is not.

Examples:
  pageless serve
  pageless serve ram:1G --nbd unix:/run/p.sock
  pageless serve pmem:/mnt/pm/disk.img,size=8G --nbd unix:/run/p.sock --nbd tcp:127.0.0.1:10809
  pageless serve file:/data/disk.img --read-only --export disk
  pageless serve pmem:/mnt/pm/disk.img --vhost-user /run/vm.sock --queues 4
      qemu-system-x86_64 … -object memory-backend-memfd,id=m,size=4G,share=on -machine …,memory-backend=m \\
        -chardev socket,id=c,path=/run/vm.sock,reconnect=1 -device vhost-user-blk-pci,chardev=c,num-queues=4")]
pub(crate) struct ServeArgs {
    /// What to serve (see `pageless help specs`)
    pub(crate) device: Option<String>,
    /// Where to listen: unix:PATH or tcp:HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) nbd: Vec<String>,
    /// Serve virtual machines by vhost-user-blk at this socket, one at a time
    #[arg(long, value_name = "PATH")]
    pub(crate) vhost_user: Option<PathBuf>,
    /// Virtqueues, each with a thread of its own [default: one for each processor, at most 16]
    #[arg(long, value_name = "N", requires = "vhost_user", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) queues: Option<u16>,
    /// How long those threads look for requests before they sleep, in µs; without a number 10000
    #[arg(long, value_name = "µs", requires = "vhost_user", num_args = 0..=1, require_equals = true,
          default_missing_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) poll: Option<u32>,
    /// Refuse writes, open the device for reading only, and make no file
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The name clients ask for
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) export: String,
    /// One JSON object per event on stdout in place of the ready lines, with the bytes that power cannot tear
    #[arg(long)]
    pub(crate) json: bool,
}

/// Copy between memory and devices, and say how the bytes went
#[derive(Debug, Args)]
#[command(after_help = "\
Memory on either side is the I/O buffer itself. A file: or pmem: DST that does not exist is made, at `size=` or else at
the size of SRC; one that exists is overwritten in place and keeps its size. Holes of SRC stay holes.
The report counts from the first request to the flushed destination; pages of new memory are made before that.

Examples:
  pageless copy file:/data/big.img pmem:/mnt/pm/disk.img --verify
  pageless copy file:/data/x.img secret:64M --verify --json
  pageless copy file:/data/x.img null:64M --depth 64 --block 1M")]
pub(crate) struct CopyArgs {
    /// Where the bytes are (see `pageless help specs`)
    pub(crate) src: String,
    /// Where they go; at least as large
    pub(crate) dst: String,
    /// Read the destination again and compare; a difference ends with exit code 1
    #[arg(long)]
    pub(crate) verify: bool,
    /// The report as one JSON object on stdout; no progress bar
    #[arg(long)]
    pub(crate) json: bool,
    /// Transfers kept in flight
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
    /// Bytes in each transfer, a multiple of 4K
    #[arg(long, value_name = "SIZE", default_value = "1M")]
    pub(crate) block: String,
}

/// Run a program whose direct I/O gets EFAULT for its memory, and make that I/O work
#[derive(Debug, Args)]
#[command(after_help = "\
The kernel is asked first, always. Where it answers EFAULT to O_DIRECT on a file or block device, the bytes go through
memory that it does take: read, write, pread, pwrite, readv, writev, preadv, pwritev, preadv2, pwritev2, and libaio's
events. All else, and a pointer that is no memory, is untouched. Processes that the program starts are covered too.

Not covered, and said where it can be seen: static programs, Go programs, programs that use io_uring or syscall(2)
themselves, set-user-ID programs, fio's userspace_reap, POSIX aio, stdio. Needs glibc.

libaio requests are noted when they are submitted, as the kernel copies them. An event keeps its EFAULT where it does not
say which request it was (two under way with one iocb and one `data`), for more than 56 iovecs, and when the file was
closed meanwhile; --stats counts it as kept. A program that submits an iocb it has unmapped, or unmaps it while io_submit
runs, may crash, and gets no EFAULT.
With --stats a signal sent to the whole process group by others than the program and its children reaches the program twice.

Ends as the program ends: its exit code, or its signal. 127: no such program, 126: it cannot be executed.

Examples:
  pageless run -- fio job.fio        (with direct=1 and iomem=mmapshared:/sys/bus/pci/devices/0000:00:04.0/resource2)
  pageless run --stats -- python3 capture.py
  pageless run --json -- sh -c './load && ./verify'")]
pub(crate) struct RunArgs {
    /// Print what was bounced on stderr when the program has ended
    #[arg(long)]
    pub(crate) stats: bool,
    /// The same as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The program, and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<OsString>,
}

/// Say what memory is and what may be done with it, by trying
#[derive(Debug, Args)]
#[command(after_help = "\
Registers the memory, then tries a CPU map, a short pin (O_DIRECT), a long pin (an io_uring registered buffer), a socket
send and a zero-copy send. No byte is changed and no hole is filled: where a file has no page the answer is `untested`.
Memory that is made for the probe (ram:, secret:...) is given one page to try on. The flush domain is what makes a store
durable (nothing, a fence, cache lines written back, msync) and how that is known. Of persistent memory the kernel's list of
bad blocks is read, and shown in whole frames of the memory.

Examples:
  pageless region probe secret:4M ram:16M
  pageless region probe pmem:disk.img,size=1G --json")]
pub(crate) struct ProbeArgs {
    /// Memory to probe (see `pageless help specs`)
    #[arg(required = true)]
    pub(crate) spec: Vec<String>,
    /// One JSON object per memory on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BttCommand {
    Create(BttCreateArgs),
    /// Say what the info blocks of a BTT say
    #[command(after_help = "\
Examples:
  pageless btt info /mnt/pm/disk.btt
  pageless btt info pool.blk --json")]
    Info(BttCheckArgs),
    /// Look for everything that is wrong with a BTT
    #[command(after_help = "\
Reads the info blocks, the flog and the map; each internal block must belong to exactly one external block or lane. A
write that was cut off is `unfinished` and not wrong: whoever opens the BTT finishes it. Nothing is stored.

Exit codes: 0 consistent, 1 inconsistent or not readable, 2 wrong arguments, 130 stopped by Ctrl-C.

Examples:
  pageless btt check /mnt/pm/disk.btt
  pageless btt check /dev/pmem0 --layout 2.0 --json")]
    Check(BttCheckArgs),
    Repair(BttRepairArgs),
}

/// Make a BTT on a file or device
#[derive(Debug, Args)]
#[command(after_help = "\
A file that does not exist is made, sparse, with --size; one that exists keeps its size. Whatever is there already, a BTT or any
byte that is not zero, is kept unless --force says otherwise. A BTT without a parent can be used by Linux on any namespace.

Exit codes: 0 made, 1 refused or went wrong (a file that was made is gone again), 2 wrong arguments, 130 stopped by Ctrl-C
before anything was changed.

Examples:
  pageless btt create /mnt/pm/disk.btt --size 8G
  pageless btt create /dev/pmem0 --sector-size 512 --layout 2.0 --force")]
pub(crate) struct BttCreateArgs {
    /// A file, a block device or a device-DAX node
    pub(crate) path: PathBuf,
    /// Bytes of the file that is made
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<String>,
    /// Bytes of a block with its metadata: 512, 520, 528, 4096, 4104, 4160, 4224
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub(crate) sector_size: u32,
    /// Where the first arena begins: 1.1 at byte 4096, 2.0 at byte 0
    #[arg(long, value_name = "LAYOUT", default_value = "1.1", alias = "version")]
    pub(crate) layout: Layout,
    /// Its UUID; a random one unless given
    #[arg(long, value_name = "UUID")]
    pub(crate) uuid: Option<Uuid>,
    /// The UUID of what is around it; unless given that of the namespace which the path is, or none
    #[arg(long, value_name = "UUID")]
    pub(crate) parent_uuid: Option<Uuid>,
    /// Overwrite what is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Make it where nothing outlives power: on a tmpfs
    #[arg(long)]
    pub(crate) volatile: bool,
    /// One JSON object on stdout, as `info` has it
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a BTT lies on
#[derive(Debug, Args)]
pub(crate) struct BttPlace {
    /// A file, a block device, a device-DAX node, or a PMDK pmemblk pool
    pub(crate) path: PathBuf,
    /// Where its first arena begins: 1.1 at byte 4096, 2.0 at byte 0, pool at byte 8192; found out unless given
    #[arg(long, value_name = "LAYOUT")]
    pub(crate) layout: Option<Layout>,
    /// The UUID of what is around it, which its info blocks must have; that of the namespace which the path is unless given
    #[arg(long, value_name = "UUID")]
    pub(crate) parent_uuid: Option<Uuid>,
}

/// A layout by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    #[value(name = "1.1")]
    V1_1,
    #[value(name = "2.0")]
    V2_0,
    #[value(name = "pool")]
    Pool,
}

impl From<Layout> for Placement {
    fn from(layout: Layout) -> Placement {
        match layout {
            Layout::V1_1 => Placement::V1_1,
            Layout::V2_0 => Placement::V2_0,
            Layout::Pool => Placement::Pmemblk,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BttCheckArgs {
    #[command(flatten)]
    pub(crate) place: BttPlace,
    /// One JSON object on stdout; no progress bar
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make right what is wrong with a BTT, where there is only one way to
#[derive(Debug, Args)]
#[command(after_help = "\
Restores an info block from its copy, and finishes writes from the flog. What could only be guessed is left, and reported.
Without --apply nothing is changed. With it, the bytes that are there go to PATH.btt-undo first, as `xxd -r` takes them.

Exit codes: 0 consistent (at the end), 1 something is left or went wrong, 2 wrong arguments, 130 stopped by Ctrl-C
while it looked: it says whether anything was changed.

Examples:
  pageless btt repair /mnt/pm/disk.btt
  pageless btt repair /mnt/pm/disk.btt --apply
  pageless btt repair /dev/pmem0 --apply --undo pmem0.undo --json")]
pub(crate) struct BttRepairArgs {
    #[command(flatten)]
    pub(crate) place: BttPlace,
    /// Show what would be changed, and change nothing (the default)
    #[arg(long, conflicts_with = "apply")]
    pub(crate) dry_run: bool,
    /// Change it
    #[arg(long)]
    pub(crate) apply: bool,
    /// Where to keep what is overwritten; a file that is not there yet
    #[arg(long, value_name = "FILE", requires = "apply")]
    pub(crate) undo: Option<PathBuf>,
    /// One JSON object on stdout; no progress bar
    #[arg(long)]
    pub(crate) json: bool,
}
