// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a flush does where stores need no kernel, shown with a file that only says that it is of that sort.

use super::*;
use pageless_block::DirectAccess;
use pageless_sys::file::OpenOptions;
use pageless_testkit::regions::TempPath;

type Change<'c> = &'c dyn Fn(&DaxFile) -> Result<(), DaxError>;

const LONG: Duration = Duration::from_secs(60);

/// Whether the next flush syncs the file: one that cannot be synced fails it.
fn syncs(file: &DaxFile, flush: impl FnOnce() -> bool) -> bool {
    let null = File::open(Path::new("/dev/null"), OpenOptions::default()).unwrap();
    let swap = |other| std::mem::replace(&mut file.shared.state.write().unwrap().file, other);
    let real = swap(Some(null));
    let flushed = flush();
    drop(swap(real));
    !flushed
}

#[test]
fn a_flush_that_failed_tells_who_met_it_why() {
    let memory = Memory::new().unwrap();
    let path = TempPath::within(std::env::current_exe().unwrap().parent().unwrap());
    std::fs::write(path.path(), [1; 20_000]).unwrap();
    let mut file = DaxFile::open(&memory, path.path(), DaxOptions::default()).unwrap();
    Arc::get_mut(&mut file.shared).unwrap().durability = Durability::Msync;
    let mut lease = file.lease(0, 1).unwrap();
    // By somebody who ignores our lock.
    let cut = |len| File::open(path.path(), OpenOptions::default()).unwrap().truncate(len).unwrap();
    cut(100);
    let error = file.close(LONG).unwrap_err();
    let told = format!(
        "{0}: flush of 20000 bytes: {1}; {0} holds 100 bytes, 20000 were asked for",
        path.path().display(),
        Status::Media
    );
    assert_eq!(error.to_string(), told);
    cut(20_000);
    assert_eq!(lease.flush(), Err(Status::Media));
    file.close(LONG).unwrap();
    let error = file.lease(7, 1).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: lease at byte 7: it was closed", path.path().display()));
}

#[test]
fn a_flush_makes_size_and_blocks_durable_where_stores_need_no_kernel() {
    let memory = Memory::new().unwrap();
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let path = TempPath::within(&folder);
    std::fs::write(path.path(), [1; 20_000]).unwrap();
    let mut file = DaxFile::open(&memory, path.path(), DaxOptions::default()).unwrap();
    Arc::get_mut(&mut file.shared).unwrap().durability = Durability::Fence;
    let dirty = || syncs(&file, || file.flush().is_ok());
    assert!(dirty(), "what became of it before is not known");
    assert!(dirty(), "a flush that failed made nothing durable");
    file.flush().unwrap();
    assert!(!dirty(), "a fence is all that it takes");

    let grow = |len| move |file: &DaxFile| file.grow(len, LONG);
    let changes: [(&str, Change<'_>); 6] = [
        ("within the last page", &grow(20_010)),
        ("further", &grow(100_000)),
        ("truncate", &|file| file.truncate(90_000, LONG)),
        ("another part", &grow(95_000)),
        ("punch", &|file| file.punch_hole(4096, 4096, LONG)),
        ("collapse", &|file| match file.collapse(8192, 4096, LONG) {
            Err(error) if error.errno() == Some(pageless_sys::Errno::EOPNOTSUPP) => file.truncate(80_000, LONG),
            collapsed => collapsed,
        }),
    ];
    for (what, change) in changes {
        change(&file).unwrap();
        assert!(dirty(), "{what}");
        file.flush().unwrap();
        assert!(!dirty(), "{what}");
        // A lease that makes some of it durable does the same.
        file.shared.changed();
        let mut lease = file.lease(0, 10).unwrap();
        assert!(syncs(&file, || lease.persist(0, 10).is_ok()), "{what}");
        assert!(file.flush().is_err(), "a failure is told to everybody once");
        lease.persist(0, 10).unwrap();
        assert!(!syncs(&file, || lease.persist(0, 10).is_ok()), "{what}");
    }
    // As one part, and larger.
    while file.parts() < DaxFile::MAX_PARTS {
        file.grow(file.size() + 5000, LONG).unwrap();
        file.truncate(file.size() - 2500, LONG).unwrap();
    }
    file.flush().unwrap();
    file.grow(file.size() + 5000, LONG).unwrap();
    assert_eq!(file.parts(), 1);
    assert!(dirty(), "mapped anew");
    file.close(LONG).unwrap();
}
