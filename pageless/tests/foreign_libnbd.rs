// SPDX-License-Identifier: MIT OR Apache-2.0
//! libnbd told not to check anything itself (strict mode off): its own list of errors a server must catch, against our server.
//! The cases are those of libnbd's `tests/errors-server-*` and `tests/opt-*`, spoken through its Python binding.

use std::process::Command;

mod common;

use common::server::{Serve, Server};
use common::{Scratch, ok, skip};

/// A Python that has the binding: the system's own, whatever else is first in the path.
fn python() -> Option<&'static str> {
    let has =
        |python: &&str| Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|o| o.status.success());
    let found = ["/usr/bin/python3", "python3"].into_iter().find(has);
    if found.is_none() {
        skip("python3-libnbd");
    }
    found
}

const PRELUDE: &str = r#"
import errno, nbd, sys
socket = sys.argv[1]

def fresh():
    h = nbd.NBD()
    h.set_strict_mode(0)
    return h

def connected():
    h = fresh()
    h.connect_unix(socket)
    return h

def refused(what, number, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum == number, f"{what}: {errno.errorcode.get(e.errnum)} and not {errno.errorcode[number]}: {e}"
    else:
        raise AssertionError(f"{what}: was not refused")
"#;

fn script(server: &Server, body: &str) {
    let Some(python) = python() else { return };
    let folder = Scratch::short();
    let path = folder.file("test.py", format!("{PRELUDE}{body}").as_bytes());
    ok(python, &[path.as_str(), server.socket()]);
}

#[test]
fn errors_a_server_must_catch() {
    let server = Server::start("ram:1M");
    script(
        &server,
        r#"
h = connected()
size = h.get_size()
assert size == 1 << 20
refused("pread out of bounds", errno.EINVAL, lambda: h.pread(512, size))
refused("pread across the end", errno.EINVAL, lambda: h.pread(1024, size - 512))
refused("pread at a negative offset", errno.EINVAL, lambda: h.pread(512, (1 << 64) - 512))
refused("pwrite out of bounds", errno.ENOSPC, lambda: h.pwrite(bytes(512), size))
refused("zero out of bounds", errno.ENOSPC, lambda: h.zero(512, size))
refused("trim out of bounds", errno.EINVAL, lambda: h.trim(512, size))
refused("cache out of bounds", errno.EINVAL, lambda: h.cache(512, size))
refused("unknown flag", errno.EINVAL, lambda: h.pread(512, 0, flags=0x100))
refused("block status not negotiated", errno.EINVAL, lambda: h.block_status(512, 0, lambda *a: 0))
# Whatever was refused, the connection is as good as new.
h.pwrite(b"x" * 512, size - 512)
assert h.pread(512, size - 512) == bytearray(b"x" * 512)
h.shutdown()
"#,
    );
    server.stop();
}

#[test]
fn errors_a_read_only_server_must_catch() {
    let server = Serve::new("ram:1M").args(&["--read-only"]).start();
    script(
        &server,
        r#"
h = connected()
assert h.is_read_only()
refused("pwrite", errno.EPERM, lambda: h.pwrite(bytes(512), 0))
refused("trim", errno.EPERM, lambda: h.trim(512, 0))
refused("zero", errno.EPERM, lambda: h.zero(512, 0))
assert h.pread(512, 0) == bytearray(512)
h.flush()
h.shutdown()
"#,
    );
    server.stop();
}

#[test]
fn options_in_every_order() {
    let server = Serve::new("ram:1M").args(&["--export", "disk"]).start();
    script(
        &server,
        r#"
h = fresh()
h.set_opt_mode(True)
h.set_export_name("disk")
h.add_meta_context("base:allocation")
h.connect_unix(socket)
names = []
assert h.opt_list(lambda name, text: names.append(name)) == 1 and names == ["disk"]
contexts = []
assert h.opt_list_meta_context(lambda name: contexts.append(name)) == 1 and contexts == ["base:allocation"]
h.opt_info()
assert h.get_size() == 1 << 20
# INFO for an export that is not there fails and spoils nothing.
h.set_export_name("nothing")
refused("info", errno.ENOENT, h.opt_info)
refused("go", errno.ENOENT, h.opt_go)
h.set_export_name("disk")
h.opt_go()
assert h.can_meta_context("base:allocation")
assert h.pread(512, 0) == bytearray(512)
h.shutdown()

# Aborting is polite in any state of the negotiation.
h = fresh()
h.set_opt_mode(True)
h.connect_unix(socket)
h.opt_abort()
assert h.aio_is_closed()

# A client that knows nothing but the oldest option.
h = fresh()
h.set_export_name("disk")
h.set_request_structured_replies(False)
h.set_handshake_flags(0)
h.connect_unix(socket)
assert h.get_protocol() in ("newstyle", "newstyle-fixed")
assert h.get_size() == 1 << 20
h.pwrite(b"y" * 512, 0)
assert h.pread(512, 0) == bytearray(b"y" * 512)
h.shutdown()
"#,
    );
    server.stop();
}

#[test]
fn block_status_and_df_and_payload_flags() {
    let folder = Scratch::shm();
    let server = Server::start(&format!("pmem:{}", folder.sparse("image", 4 << 20)));
    script(
        &server,
        r#"
h = fresh()
h.add_meta_context("base:allocation")
h.connect_unix(socket)
h.pwrite(b"z" * 65536, 1 << 20)

def status(count, offset, flags=0):
    out = []
    def extents(context, at, entries, error):
        assert context == "base:allocation" and at == offset and error.value == 0
        out.extend(zip(entries[::2], entries[1::2]))
    h.block_status(count, offset, extents, flags=flags)
    return out

assert status(65536, 1 << 20) == [(65536, 0)], status(65536, 1 << 20)
assert status(1 << 20, 0) == [(1 << 20, 3)], status(1 << 20, 0)
assert len(status(4 << 20, 0, nbd.CMD_FLAG_REQ_ONE)) == 1
whole = status(4 << 20, 0)
assert [kind for _, kind in whole[:3]] == [3, 0, 3], whole

# A structured read tells hole from data; DF asks for one chunk.
def chunks(count, offset, flags=0):
    seen = []
    def chunk(data, at, kind, error):
        seen.append((at, len(data), kind))
    buf = h.pread_structured(count, offset, chunk, flags=flags)
    return buf, seen

buf, seen = chunks(131072, (1 << 20) - 65536)
assert buf == bytearray(65536) + bytearray(b"z" * 65536)
assert nbd.READ_HOLE in [kind for _, _, kind in seen], seen
assert sum(n for _, n, kind in seen if kind == nbd.READ_DATA) == 65536, seen
buf, seen = chunks(65536, 1 << 20, nbd.CMD_FLAG_DF)
assert len(seen) == 1 and buf == bytearray(b"z" * 65536)

# NO_HOLE leaves blocks allocated, a plain zero punches, FAST_ZERO is either fast or refused.
h.zero(65536, 1 << 20, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(65536, 1 << 20) == bytearray(65536)
assert status(65536, 1 << 20) in ([(65536, 0)], [(65536, 2)]), status(65536, 1 << 20)
h.zero(65536, 1 << 20)
assert status(65536, 1 << 20) == [(65536, 3)], status(65536, 1 << 20)
try:
    h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO)
except nbd.Error as e:
    assert e.errnum == errno.ENOTSUP, e
h.cache(1 << 20, 0)
h.shutdown()
"#,
    );
    server.stop();
}

#[test]
fn many_requests_at_once_come_back_exactly_once_each() {
    let server = Server::start("ram:64M");
    script(
        &server,
        r#"
h = connected()
n = 3000
done = [0] * n
def finished(i):
    def callback(error):
        assert error.value == 0
        done[i] += 1
        return 1
    return callback

block = [bytes([i % 251]) * 4096 for i in range(n)]
for i in range(n):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(block[i])), i * 4096, finished(i))
while h.aio_in_flight() > 0:
    h.poll(-1)
assert done == [1] * n
done = [0] * n
buffers = [nbd.Buffer(4096) for _ in range(n)]
for i in range(n):
    h.aio_pread(buffers[i], i * 4096, finished(i))
while h.aio_in_flight() > 0:
    h.poll(-1)
assert done == [1] * n
for i in range(n):
    assert buffers[i].to_bytearray() == block[i], i
h.shutdown()
"#,
    );
    server.stop();
}
