// SPDX-License-Identifier: MIT OR Apache-2.0
use std::os::unix::net::UnixListener;

use super::*;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pageless-listener-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = directory("stale");
    let path = directory.join("sock");
    // A server that died leaves its socket's name behind.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::open(&Listen::Unix(path.clone())).unwrap();
    let error = Listener::open(&Listen::Unix(path.clone())).unwrap_err();
    assert!(matches!(&error, Error::LiveSocket(live) if *live == path));
    assert!(error.to_string().contains("sock"), "{error}");
    drop(listener);
    assert!(!path.exists(), "it goes with its listener");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = directory("file");
    let path = directory.join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(Listener::open(&Listen::Unix(path.clone())), Err(Error::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_socket_that_replaced_ours_outlives_us() {
    let directory = directory("replaced");
    let path = directory.join("sock");
    let ours = Listener::open(&Listen::Unix(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    drop(ours);
    assert!(path.exists());
    drop(theirs);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn errors_name_the_address() {
    let missing = Listener::open(&Listen::Unix("/nonexistent/dir/sock".into())).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/dir/sock") && missing.contains("ENOENT"), "{missing}");
    let tcp = Listener::open(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let taken = Listener::open(&tcp.address()).unwrap_err().to_string();
    assert!(taken.contains("tcp:127.0.0.1:") && taken.contains("EADDRINUSE"), "{taken}");
}
