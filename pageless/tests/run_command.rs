// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless run` as a command: how it ends, what it says beforehand, what it counts, and the library that it carries.

mod common;

#[path = "run/programs.rs"]
mod programs;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

use common::{Scratch, eventually, have, ok, said, skip_kernel};
use programs::{PAGELESS, Program, report};

/// Runs it with a runtime folder of its own.
fn pageless_run(runtime: &Scratch, args: &[&str]) -> Output {
    command(runtime, args).output().expect("it starts")
}

fn command(runtime: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120", PAGELESS, "run"]).args(args).env("XDG_RUNTIME_DIR", runtime.path(""));
    command.stdin(Stdio::null());
    command
}

/// The library that a run wrote.
fn library(runtime: &Scratch) -> String {
    let folders = fs::read_dir(runtime.path("")).expect("the runtime folder").map(|entry| entry.expect("entry").path());
    let folder = folders.into_iter().find(|path| path.is_dir()).expect("a folder of ours");
    assert_eq!(folder.metadata().expect("stat").permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry").path()).collect();
    assert_eq!(files.len(), 1, "the library and nothing else stays behind: {files:?}");
    assert_eq!(files[0].metadata().expect("stat").permissions().mode() & 0o777, 0o500);
    files[0].to_str().expect("UTF-8").to_owned()
}

/// The binary where no signal is ignored, as SIGINT and SIGQUIT are by what a shell runs in the background: tests too.
fn heeding_signals() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", PAGELESS]);
    command
}

#[test]
fn it_ends_as_the_program_ends() {
    let runtime = Scratch::short();
    for stats in [&[][..], &["--stats"]] {
        let end = |script: &str| {
            let args: Vec<&str> = stats.iter().copied().chain(["--", "sh", "-c", script]).collect();
            // timeout(1) would turn a signal into an exit code.
            let mut command = heeding_signals();
            command.arg("run").args(args).env("XDG_RUNTIME_DIR", runtime.path("")).stdin(Stdio::null());
            command.output().expect("it starts")
        };
        assert_eq!(end("exit 0").status.code(), Some(0));
        assert_eq!(end("exit 7").status.code(), Some(7));
        assert_eq!(end("exit 255").status.code(), Some(255));
        for signal in [1, 2, 9, 11, 15] {
            let status = end(&format!("kill -{signal} $$")).status;
            assert_eq!(status.signal(), Some(signal), "{stats:?}: {status}");
        }
        assert_eq!(said(&end("echo out; echo err >&2")).lines().next(), Some("out"));
    }
}

/// A signal sent to us alone reaches the program, and we outlive it to say what was counted.
#[test]
fn signals_reach_the_program() {
    let runtime = Scratch::short();
    for signal in ["TERM", "INT", "HUP", "USR1", "QUIT"] {
        let ready = runtime.path(signal);
        // It ends by itself one day: a test that fails must not leave it behind.
        let script = format!(
            "trap 'echo got {signal}; exit 9' {signal}; : >{ready}; n=0; while [ $n -lt 1000 ]; do sleep 0.05; n=$((n + 1)); done"
        );
        let child = heeding_signals()
            .args(["run", "--json", "--", "sh", "-c", &script])
            .env("XDG_RUNTIME_DIR", runtime.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        eventually("the program runs", || fs::exists(&ready).expect("stat").then_some(()));
        ok("kill", &[&format!("-{signal}"), &child.id().to_string()]);
        let out = child.wait_with_output().expect("it ends");
        assert_eq!(out.status.code(), Some(9), "{signal}: {}", said(&out));
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("got {signal}\n"));
        assert!(report(&String::from_utf8_lossy(&out.stderr))["programs"].as_u64() > Some(0), "{}", said(&out));
    }
}

/// What the program inherits is what we were given, and what we need for ourselves does not show: SIGPIPE, SIGCHLD, the
/// mask; and its status is kept when it removes the file that is counted in.
#[test]
fn signals_are_treated_as_before() {
    const SHOW: &str = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    if !have(&["python3"]) {
        return;
    }
    let runtime = Scratch::short();
    let folder = runtime.path("");
    let changes = |what: &str, rest: &str| {
        let script = format!(
            "import os, signal, sys\n{what}\nos.environ['XDG_RUNTIME_DIR'] = {folder:?}\nos.execvp(sys.argv[1], sys.argv[1:])"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).args(rest.split('|').filter(|word| !word.is_empty()));
        command.stdin(Stdio::null()).output().expect("it starts")
    };
    for what in [
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        "signal.signal(signal.SIGPIPE, signal.SIG_IGN)",
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])",
    ] {
        let alone = changes(what, &format!("sh|-c|{SHOW}").replace("(Blk|Ign)", "[BI]"));
        assert!(alone.status.success(), "{what}: {}", said(&alone));
        for stats in ["", "--stats|"] {
            let ours = changes(what, &format!("{PAGELESS}|run|{stats}--|sh|-c|{SHOW}").replace("(Blk|Ign)", "[BI]"));
            assert!(ours.status.success(), "{what} {stats}: {}", said(&ours));
            assert_eq!(ours.stdout, alone.stdout, "{what} {stats}");
        }
    }
    let out =
        changes("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", &format!("{PAGELESS}|run|--json|--|sh|-c|exit 9"));
    assert_eq!(out.status.code(), Some(9), "{}", said(&out));
    let out = pageless_run(&runtime, &["--json", "--", "sh", "-c", "rm -f $PAGELESS_RUN_COUNTERS; exit 8"]);
    assert_eq!(out.status.code(), Some(8), "{}", said(&out));
    assert_eq!(report(&String::from_utf8_lossy(&out.stderr))["programs"].as_u64(), Some(2), "{}", said(&out));
}

/// What the program sends to its group reaches it once.
#[test]
fn signals_of_the_programs_own_are_not_sent_again() {
    const SCRIPT: &str = "
import os, signal, time
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
for n in range(3):
    os.kill(0, signal.SIGUSR1)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        time.sleep(0.01)
print('got', len(got))
";
    if !have(&["setsid", "python3"]) {
        return;
    }
    let runtime = Scratch::short();
    let out = Command::new("setsid")
        .args(["--wait", PAGELESS, "run", "--stats", "--", "python3", "-c", SCRIPT])
        .env("XDG_RUNTIME_DIR", runtime.path(""))
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert!(said(&out).contains("got 3\n"), "{}", said(&out));
}

#[test]
fn what_cannot_be_run_has_the_codes_of_a_shell() {
    let runtime = Scratch::short();
    let plain = runtime.file("plain", b"no program");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("chmod");
    let broken = runtime.file("broken", b"#!/no/such/interpreter\n");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("chmod");
    for stats in [false, true] {
        for (program, code, says) in [
            ("no-such-program", 127, "no-such-program: no such program"),
            (&runtime.path("nothing"), 127, "no such program"),
            (&plain, 126, "is no executable file"),
            (&runtime.path(""), 126, "is no executable file"),
            (&broken, 126, "cannot run it"),
        ] {
            let args: &[&str] = if stats { &["--stats", "--", program] } else { &["--", program] };
            let out = pageless_run(&runtime, args);
            assert_eq!(out.status.code(), Some(code), "{program}: {}", said(&out));
            assert!(said(&out).contains(says), "{program}: {}", said(&out));
        }
    }
    let usage = pageless_run(&runtime, &[]);
    assert_eq!(usage.status.code(), Some(2), "{}", said(&usage));
    assert!(ok(PAGELESS, &["run", "--help"]).contains("Examples:"));
}

/// Everything that is not option of ours goes to the program as it is.
#[test]
fn arguments_environment_and_name_are_the_programs() {
    let runtime = Scratch::short();
    let out = pageless_run(&runtime, &["--", "sh", "-c", "echo \"$0|$*|$LD_PRELOAD\"", "zero", "--stats", "a b", "--"]);
    let line = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    assert_eq!(line, format!("zero|--stats a b --|{}", library(&runtime)));
    let out = command(&runtime, &["sh", "-c", "echo $LD_PRELOAD"])
        .env("LD_PRELOAD", "libc.so.6")
        .output()
        .expect("it starts");
    let line = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    assert_eq!(line, format!("{}:libc.so.6", library(&runtime)));
}

/// What the children and successors of a program did is counted, however they ended.
#[test]
fn every_process_counts_however_it_ends() {
    let Some(program) = Program::build("direct") else { return };
    let (runtime, scratch) = (Scratch::short(), Scratch::disk());
    let one = format!("{} secret {} end_of_file", program.path(), scratch.path("data"));
    let alone = pageless_run(&runtime, &["--json", "--", "sh", "-c", &one]);
    if alone.status.code() == Some(77) {
        return skip_kernel("memfd_secret", "guest/run-c");
    }
    let single = report(&String::from_utf8_lossy(&alone.stderr));
    let reads = single["reads"].as_u64().expect("a number");
    assert!(reads > 0, "{single}");
    let script = format!("{one}; {one} & wait; ({one}; kill -9 $$) ; exec {one}");
    let out = pageless_run(&runtime, &["--json", "--", "sh", "-c", &script]);
    let counted = report(&String::from_utf8_lossy(&out.stderr));
    assert_eq!(counted["reads"].as_u64(), Some(3 * reads), "killed by its own child before the exec: {counted}");
    let script = format!("{one}; {one}; exec {one}");
    let out = pageless_run(&runtime, &["--stats", "--", "sh", "-c", &script]);
    let text = said(&out);
    assert!(text.contains("in 4 programs that") && text.contains(&format!(" by {} calls\n", 3 * reads)), "{text}");
    library(&runtime);
}

#[test]
fn it_says_what_it_cannot_cover() {
    if !have(&["gcc"]) {
        return;
    }
    let (runtime, scratch) = (Scratch::short(), Scratch::disk());
    let source = scratch.file("true.c", b"int main(void) { return 0; }\n");
    let build = |name: &str, extra: &[&str]| {
        let path = scratch.path(name);
        let mut args = vec!["-o", &path, &source];
        args.extend(extra);
        ok("gcc", &args);
        path
    };
    let note = |args: &[&str]| {
        let mut words = vec!["--stats", "--"];
        words.extend(args);
        let out = pageless_run(&runtime, &words);
        assert!(out.status.success(), "{args:?}: {}", said(&out));
        said(&out)
    };
    let plain = build("plain", &[]);
    assert!(!note(&[&plain]).contains("note:"), "{}", note(&[&plain]));
    // In units of 512 bytes.
    let limited = format!("ulimit -f 100; exec env XDG_RUNTIME_DIR={} {PAGELESS} run -- true", runtime.path(""));
    assert!(said(&common::run("sh", &["-c", &limited])).contains("limited to 51200 bytes"), "a small ulimit -f");
    let fixed = build("static", &["-static"]);
    let text = note(&[&fixed]);
    assert!(text.contains("is statically linked") && text.contains("was not loaded"), "{text}");
    assert!(note(&[&build("static-pie", &["-static-pie"])]).contains("is statically linked"));
    // A section is what tells Go's programs.
    let asan = scratch.path("libasan.so.8");
    ok("gcc", &["-shared", "-o", &asan, "-Wl,-soname,libasan.so.8", &source]);
    let rpath = format!("-Wl,-rpath,{}", scratch.path(""));
    assert!(note(&[&build("asan", &["-Wl,--no-as-needed", &asan, &rpath])]).contains("verify_asan_link_order=0"));
    let section = scratch.file("go.s", b".section .go.buildinfo,\"a\"\n.byte 0\n");
    assert!(note(&[&build("go", &[&section])]).contains("is a Go program"));
    let uring = scratch.path("liburing.so.2");
    ok("gcc", &["-shared", "-o", &uring, "-Wl,-soname,liburing.so.2", &source]);
    let rpath = format!("-Wl,-rpath,{}", scratch.path(""));
    let linked = build("uring", &["-Wl,--no-as-needed", &uring, &rpath]);
    assert!(note(&[&linked]).contains("is linked with liburing"));
    assert!(note(&[&plain, "--ioengine=io_uring"]).contains("names io_uring"));
    // A script is what interprets it.
    let script = scratch.file("script", format!("#!{fixed}\n").as_bytes());
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    assert!(note(&[&script]).contains("static is statically linked"));
    let fio = build("fio", &[]);
    assert!(note(&[&fio, "--userspace_reap"]).contains("userspace_reap"));
    assert!(!note(&[&fio, "--userspace_reap=0"]).contains("userspace_reap"));
    let job = scratch.file("job.fio", b"[global]\nioengine=libaio\nuserspace_reap\n; ioengine=io_uring\n");
    let text = note(&[&fio, &job]);
    assert!(text.contains("userspace_reap") && !text.contains("names io_uring"), "{text}");
    // Another machine's: told before the kernel refuses it.
    let mut foreign = fs::read(&plain).expect("the program");
    foreign[18] = 183;
    let foreign = scratch.file("foreign", &foreign);
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).expect("chmod");
    let out = pageless_run(&runtime, &["--", &foreign]);
    assert!(said(&out).contains("is not a 64-bit x86-64 program"), "{}", said(&out));
    if ok("id", &["-u"]).trim() == "0" {
        let other = build("setuid", &[]);
        ok("chown", &["65534", &other]);
        ok("chmod", &["4755", &other]);
        assert!(note(&[&other]).contains("runs with rights that its file gives it"));
    }
}

/// A file of that name that is not the library is replaced; another's folder is not used; many at once do not collide.
#[test]
fn the_library_is_written_safely() {
    let runtime = Scratch::short();
    let works = || ok("env", &[&format!("XDG_RUNTIME_DIR={}", runtime.path("")), PAGELESS, "run", "--", "true"]);
    works();
    let path = library(&runtime);
    let good = fs::read(&path).expect("the library");
    assert!(good.starts_with(b"\x7fELF"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(&path, &good[..good.len() / 2]).expect("half of it");
    works();
    assert_eq!(fs::read(library(&runtime)).expect("the library"), good);
    fs::remove_file(&path).expect("removed");
    let children: Vec<_> = (0..16).map(|_| command(&runtime, &["--", "true"]).spawn().expect("it starts")).collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    assert_eq!(fs::read(library(&runtime)).expect("the library"), good);
    // Somebody may put another folder in its place.
    let loose = runtime.path("loose");
    fs::create_dir_all(format!("{loose}/mine")).expect("made");
    for (mode, used) in [(0o777, false), (0o770, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(&loose, fs::Permissions::from_mode(mode)).expect("chmod");
        let mut run = command(&runtime, &["--", "sh", "-c", "echo $LD_PRELOAD"]);
        let out = run.env("XDG_RUNTIME_DIR", format!("{loose}/mine")).output().expect("it starts");
        assert!(out.status.success(), "{}", said(&out));
        assert_eq!(said(&out).contains(&loose), used, "{mode:o}: {}", said(&out));
    }
    // Somebody may look into it: not a folder to load code from.
    let folder = std::path::Path::new(&path).parent().expect("a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(&path, b"not the library").ok();
    let out = pageless_run(&runtime, &["--", "sh", "-c", "echo $LD_PRELOAD"]);
    assert!(out.status.success() && !said(&out).contains(folder.to_str().expect("UTF-8")), "{}", said(&out));
}

/// No std, no thread-local storage, no way to panic, and of libc only what the edge declares.
#[test]
fn the_library_needs_next_to_nothing() {
    if !have(&["nm", "readelf"]) {
        return;
    }
    let runtime = Scratch::short();
    assert!(pageless_run(&runtime, &["--", "true"]).status.success());
    let library = library(&runtime);
    let names = |args: &[&str]| {
        let text = ok("nm", args);
        let of = |line: &str| {
            line.split_whitespace().last().unwrap_or_default().split('@').next().unwrap_or_default().to_owned()
        };
        text.lines().map(of).collect::<Vec<_>>()
    };
    // The last three are gcc's start files', weak.
    const KNOWN: &[&str] = &[
        "__errno_location",
        "dlsym",
        "dlerror",
        "getenv",
        "memcpy",
        "memset",
        "__cxa_finalize",
        "__gmon_start__",
        "_ITM_deregisterTMCloneTable",
        "_ITM_registerTMCloneTable",
    ];
    let undefined = names(&["-D", "--undefined-only", &library]);
    assert!(undefined.contains(&"dlsym".to_owned()), "{undefined:?}");
    let foreign: Vec<_> = undefined.iter().filter(|name| !KNOWN.contains(&name.as_str())).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let panics: Vec<_> = names(&[&library]).into_iter().filter(|name| name.contains("panic")).collect();
    assert!(panics.is_empty(), "{panics:?}");
    assert!(
        names(&[&library]).iter().any(|name| name.contains("bounce")),
        "the symbols were stripped: nothing was looked at"
    );
    let headers = ok("readelf", &["-lWd", &library]);
    assert!(!headers.contains(" TLS "), "{headers}");
    assert!(!headers.contains("TEXTREL"), "{headers}");
    assert!(headers.contains("BIND_NOW"), "no symbol is looked up later: {headers}");
    let exported = names(&["-D", "--defined-only", &library]);
    for name in [
        "read",
        "write",
        "readv",
        "writev",
        "__read_chk",
        "__pread_chk",
        "__pread64_chk",
        "io_getevents",
        "io_pgetevents",
        "io_submit",
        "close",
        "dup2",
        "dup3",
        "close_range",
        "__read",
        "__write",
        "__pread64",
        "__pwrite64",
        "io_destroy",
    ] {
        assert!(exported.contains(&name.to_owned()), "{name}: {exported:?}");
    }
    for name in ["pread", "pwrite", "preadv", "pwritev"] {
        for name in [name.to_owned(), format!("{name}64")] {
            assert!(exported.contains(&name), "{name}: {exported:?}");
        }
    }
    for name in ["preadv2", "pwritev2", "preadv64v2", "pwritev64v2"] {
        assert!(exported.contains(&name.to_owned()), "{name}: {exported:?}");
    }
    assert_eq!(exported.len(), 31, "{exported:?}");
}
