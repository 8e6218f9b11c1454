// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;

use pageless_drivers::btt::Order;
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, Placement};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Spec, SpecError> {
    text.parse()
}

#[test]
fn every_kind_parses_to_its_own_type() {
    use MemorySpec::*;
    let memory = Spec::Memory;
    let btt = |medium, sector, layout, order| {
        Spec::Device(DeviceSpec::Btt(BttSpec { medium, sector, layout, order, parent: None }))
    };
    for (text, spec) in [
        ("ram:16M", memory(Ram(16 << 20))),
        ("memfd:64M", memory(Memfd(64 << 20))),
        ("hugetlb:2M", memory(Hugetlb(2 << 20))),
        ("secret:4M", memory(Secret(4 << 20))),
        ("udmabuf:16M", memory(Udmabuf(16 << 20))),
        ("pmem:a.img", memory(Pmem { path: "a.img".into(), size: None })),
        ("pmem:/p/a,,b=c.img,size=8G", memory(Pmem { path: "/p/a,b=c.img".into(), size: Some(8 << 30) })),
        ("heap:16M", memory(Heap { size: 16 << 20, name: None })),
        ("heap:16M,name=linux,,cma", memory(Heap { size: 16 << 20, name: Some("linux,cma".into()) })),
        ("devmem:0x3c000000,size=16M", memory(DevMem { address: 0x3c00_0000, size: 16 << 20 })),
        ("dax:/dev/dax0.0", memory(Dax("/dev/dax0.0".into()))),
        ("file:/dev/vda", Spec::Device(DeviceSpec::File { path: "/dev/vda".into(), size: None })),
        ("file:C:x=y.img", Spec::Device(DeviceSpec::File { path: "C:x=y.img".into(), size: None })),
        ("null:512", Spec::Device(DeviceSpec::Null(512))),
        (
            "btt:/a,,b.btt,size=1G",
            btt(Pmem { path: "/a,b.btt".into(), size: Some(1 << 30) }, None, None, Order::Kernel),
        ),
        ("btt:ram:64M,sector=520", btt(Ram(64 << 20), LbaSize::new(520), None, Order::Kernel)),
        (
            "btt:/a,parent=01234567-89ab-cdef-0123-456789abcdef",
            Spec::Device(DeviceSpec::Btt(BttSpec {
                medium: Pmem { path: "/a".into(), size: None },
                sector: None,
                layout: None,
                order: Order::Kernel,
                parent: Some(Uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes())),
            })),
        ),
        (
            "btt:pmem:ram:x,sector=4096,layout=2.0,order=strict",
            btt(Pmem { path: "ram:x".into(), size: None }, LbaSize::new(4096), Some(Placement::V2_0), Order::Strict),
        ),
    ] {
        assert_eq!(parse(text), Ok(spec.clone()), "{text}");
        assert_eq!(spec.to_string(), text);
    }
    assert_eq!(parse("btt:pmem:/a.btt"), parse("btt:/a.btt"), "a path needs no kind");
    let same = parse("devmem:960M,size=16M").expect("addresses may be written as sizes are");
    assert_eq!(same, memory(DevMem { address: 960 << 20, size: 16 << 20 }));
    let bar = parse("bar:0000:01:00.0/2").expect("parses");
    assert_eq!(bar.kind(), Kind::Bar);
    assert_eq!(bar.to_string(), "bar:0000:01:00.0/2");
}

#[test]
fn every_example_in_the_help_parses_and_shows_itself() {
    for about in &KINDS {
        let spec = parse(about.example).expect(about.example);
        assert_eq!(spec.kind(), about.kind);
        assert_eq!(spec.to_string(), about.example);
        assert_eq!(about.kind.is_memory(), matches!(spec, Spec::Memory(_)));
    }
}

/// One row per sort of mistake: what is marked, what is said, what is proposed.
#[test]
fn bad_specs_point_at_the_bad_part() {
    for (text, marked, cause, remedy) in [
        ("", "", "no kind", "write KIND:WHERE"),
        ("disk.img", "disk.img", "no kind", "help specs"),
        ("rma:16M", "rma", "unknown kind", "did you mean `ram:`?"),
        ("qcow2:a.img", "qcow2", "unknown kind", "the kinds are ram, memfd"),
        (":16M", "", "unknown kind", "the kinds are"),
        ("ram:", "", "a size is missing", "ram:SIZE"),
        ("ram:big", "big", "this is no size", "K, M, G or T"),
        ("ram:1.5G", "1.5G", "this is no size", "1536M"),
        ("ram:0", "0", "a size of zero", "at least"),
        ("ram:99999999T", "99999999T", "does not fit 64 bits", "largest"),
        ("ram:1000", "1000", "1000 bytes is no multiple of 4096", "write 4K instead"),
        ("hugetlb:5M", "5M", "no multiple of 2097152 (2 MiB)", "write 6M instead"),
        ("null:1000", "1000", "1000 bytes is no multiple of 512", "write 1K instead"),
        ("ram:18446744073709551615", "18446744073709551615", "no multiple of 4096", "write 18014398509481980K"),
        ("ram:16M,size=1G", "size", "ram: has no such key", "without options, such as ram:16M"),
        ("pmem:", "", "a path is missing", "pmem:PATH[,size=SIZE]"),
        ("pmem:,size=1G", "", "a path is missing", "pmem:PATH[,size=SIZE]"),
        ("pmem:a.img,sise=1G", "sise", "pmem: has no such key", "did you mean `size=`?"),
        ("pmem:a.img,cache=none", "cache", "pmem: has no such key", "pmem: takes size="),
        ("pmem:a,b.img", "b.img", "no key=value option", "written twice"),
        ("pmem:a.img,", "", "no key=value option", "key=value"),
        ("pmem:a.img,size=1G,size=2G", "size", "the same key twice", "once"),
        ("pmem:a.img,size=1000", "1000", "no multiple of 4096", "write 4K instead"),
        ("file:a.img,size=", "", "a size is missing", "file:PATH[,size=SIZE]"),
        ("file:a.img,size=1000", "1000", "no multiple of 512", "write 1K instead"),
        ("file:a\0b", "\0", "zero byte", "leave"),
        ("btt:", "", "a path is missing", "pmem:PATH"),
        ("btt:ram:64M,size=1G", "size", "ram: has no such key", "without options"),
        ("btt:/a,name=x", "name", "pmem: has no such key", "pmem: takes size="),
        ("btt:/a,sector=1000", "1000", "no such sector", "512, 520, 528, 4096"),
        ("btt:/a,layout=3", "3", "no such layout", "1.1 or 2.0"),
        ("btt:/a,order=", "", "no such order", "strict"),
        ("btt:/a,parent=0123", "0123", "no such parent", "a UUID"),
        ("btt:/a,setcor=512", "setcor", "btt: has no such key", "did you mean `sector=`?"),
        ("btt:ram:1000", "1000", "no multiple of 4096", "write 4K instead"),
        ("dax:/dev/sda", "/dev/sda", "no device-DAX node", "daxctl list"),
        ("bar:01:00.0/2", "01:00.0/2", "no BAR", "lspci -D"),
        ("bar:", "", "no BAR", "lspci -D"),
        ("heap:", "", "a size is missing", "heap:SIZE[,name=HEAP]"),
        ("heap:1000", "1000", "no multiple of 4096", "write 4K instead"),
        ("heap:4K,name=", "", "no heap", "ls /dev/dma_heap"),
        ("heap:4K,name=../mem", "../mem", "no heap", "ls /dev/dma_heap"),
        ("heap:4K,nmae=a", "nmae", "heap: has no such key", "did you mean `name=`?"),
        ("heap:4K,name=a,name=b", "name", "the same key twice", "once"),
        ("devmem:0x3c000000", "", "a size is missing", "devmem:ADDRESS,size=SIZE, such as size=16M"),
        ("devmem:", "", "no physical address", "/proc/iomem"),
        ("devmem:0x,size=4K", "0x", "no physical address", "/proc/iomem"),
        ("devmem:0x+1000,size=4K", "0x+1000", "no physical address", "/proc/iomem"),
        ("devmem:3c000000,size=4K", "3c000000", "no physical address", "devmem:0x3c000000"),
        ("devmem:0x10000000000000,size=4K", "0x10000000000000", "no physical address", "/proc/iomem"),
        ("devmem:0xfffffffffffff000,size=4K", "0xfffffffffffff000", "no physical address", "/proc/iomem"),
        ("devmem:0xffffffffff000,size=8K", "0xffffffffff000", "no physical address", "/proc/iomem"),
        ("devmem:0x3c000800,size=4K", "0x3c000800", "no frame starts at 0x3c000800", "write 0x3c000000 instead"),
        ("devmem:0x3c000000,size=1000", "1000", "no multiple of 4096", "write 4K instead"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.text(), text);
        assert_eq!(&text[error.at()], marked, "{text}");
        assert!(error.cause().to_string().contains(cause), "{text}: {error}");
        assert!(error.remedy().contains(remedy), "{text}: {error}");
    }
}

#[test]
fn the_whole_message() {
    assert_eq!(
        parse("pmem:/mnt/disk.img,sise=1G").expect_err("no such key").to_string(),
        "pmem: has no such key\n  \
           pmem:/mnt/disk.img,sise=1G\n  \
         \u{20}                  ^^^^\n  \
           help: did you mean `size=`?"
    );
}

#[test]
fn control_characters_do_not_move_the_carets() {
    let shown = parse("pmem:a\nb,c").expect_err("no option").to_string();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[1], "  pmem:a\\nb,c");
    assert_eq!(lines[2], "            ^");
}

/// Seeds kept by the fuzzer, replayed where every test runs.
#[test]
fn the_corpus_replays() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/spec");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is in the repository") {
        let bytes = std::fs::read(entry.expect("entry").path()).expect("seed");
        if let Ok(text) = std::str::from_utf8(&bytes) {
            holds(text);
            replayed += 1;
        }
    }
    assert!(replayed >= KINDS.len(), "only {replayed} seeds");
}

/// What must be true of any text: no panic, errors that point inside it, specs that show themselves.
fn holds(text: &str) {
    match parse(text) {
        Ok(spec) => {
            let shown = spec.to_string();
            assert_eq!(parse(&shown), Ok(spec), "{text:?} shown as {shown:?}");
        }
        Err(error) => {
            assert!(text.get(error.at()).is_some(), "{text:?}: {:?}", error.at());
            assert_eq!(error.to_string().lines().count(), 4, "{text:?}");
            assert!(!error.remedy().is_empty());
        }
    }
    match text.parse::<Listen>() {
        Ok(listen) => assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen)),
        Err(error) => assert!(text.get(error.at()).is_some(), "{text:?}"),
    }
}

fn near_specs() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        "ram", "memfd", "hugetlb", "secret", "udmabuf", "heap", "pmem", "dax", "bar", "devmem", "file", "null", "btt",
        "unix", "tcp", "rma",
    ]);
    let piece = prop_oneof![
        Just(",".to_owned()),
        Just(",,".to_owned()),
        Just("=".to_owned()),
        Just(":".to_owned()),
        Just(",size=".to_owned()),
        Just(",name=".to_owned()),
        Just(",sector=".to_owned()),
        Just(",order=strict".to_owned()),
        Just(",parent=".to_owned()),
        Just("ram:".to_owned()),
        Just("0x3c000000".to_owned()),
        Just("/dev/dax0.0".to_owned()),
        Just("0000:01:00.0/2".to_owned()),
        "[0-9]{1,20}[KMGT]?",
        "\\PC{0,6}",
        any::<char>().prop_map(String::from),
    ];
    (kind, prop::collection::vec(piece, 0..6)).prop_map(|(kind, pieces)| format!("{kind}:{}", pieces.concat()))
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused_well(text in any::<String>()) {
        holds(&text);
    }

    #[test]
    fn texts_near_the_grammar_parse_or_are_refused_well(text in near_specs()) {
        holds(&text);
    }

    #[test]
    fn every_path_can_be_named(path in "[^\\x00]{1,40}", size in prop::option::of(1_u64..1 << 40)) {
        let size = size.map(|frames| frames * 4096);
        for spec in [
            Spec::Memory(MemorySpec::Pmem { path: path.clone().into(), size }),
            Spec::Device(DeviceSpec::File { path: path.clone().into(), size }),
            Spec::Device(DeviceSpec::Btt(BttSpec {
                medium: MemorySpec::Pmem { path: path.clone().into(), size },
                sector: LbaSize::new(512),
                layout: None,
                order: Order::Kernel,
                parent: None,
            })),
        ] {
            prop_assert_eq!(parse(&spec.to_string()), Ok(spec));
        }
    }
}
