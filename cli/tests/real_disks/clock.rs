//! A wall clock ten years on under a running server, a late ack behind it, and then a full disk.
//!
//! The clock is that of one process: where the kernel's functions for reading it are mapped into the
//! server (the vDSO), other instructions are put, which add to what the system call says. Both clocks
//! of wall time are changed so, and no other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::full::{drain, fill, small_ext4};
use crate::harness::{MILLSTREAM, Numbers, Running, Server, Setup, millstream, until};

const TEN_YEARS_S: i64 = 10 * 365 * 86_400;
/// More than the disk takes.
const INPUT_BYTES: usize = 80 << 20;

/// Has the process read wall clocks that are `ahead_s` seconds ahead of the machine's. It stands still
/// meanwhile.
fn set_wall_clock(pid: u32, ahead_s: i64) -> io::Result<()> {
    let lacking = |what: &str| io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
    if !cfg!(target_arch = "x86_64") {
        return Err(lacking("the instructions are those of x86-64"));
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line
        .and_then(|line| line.split_once(' '))
        .map(|(range, _)| range);
    let (from, to) = range
        .and_then(|range| range.split_once('-'))
        .ok_or_else(|| lacking("no vDSO"))?;
    let address = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
    let (from, to) = (address(from)?, address(to)?);
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    let mut image = vec![0; (to - from) as usize];
    memory.read_exact_at(&mut image, from)?;
    let function = symbol(&image, b"__vdso_clock_gettime").ok_or_else(|| lacking("no clock"))?;
    memory.write_all_at(&instructions(ahead_s), from + function)
}

/// Asks the system for the time and adds to it, if it is of clock 0 (realtime) or 5 (the coarse one).
fn instructions(ahead_s: i64) -> Vec<u8> {
    let mut code = vec![0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05]; // mov eax, clock_gettime; syscall
    code.extend([0x85, 0xff, 0x74, 0x05]); // test edi, edi; je the addition
    code.extend([0x83, 0xff, 0x05, 0x75, 0x0d]); // cmp edi, 5; jne the end
    code.extend([0x48, 0xb9]); // mov rcx, …
    code.extend(ahead_s.to_le_bytes());
    code.extend([0x48, 0x01, 0x0e, 0xc3]); // add [rsi], rcx; ret
    code
}

/// Where in an ELF image a symbol is defined.
fn symbol(image: &[u8], wanted: &[u8]) -> Option<u64> {
    const DYNAMIC: u32 = 2;
    const STRINGS: u64 = 5;
    const SYMBOLS: u64 = 6;
    let at = |at: usize| {
        image
            .get(at..at + 8)?
            .try_into()
            .ok()
            .map(u64::from_le_bytes)
    };
    let short = |at: usize| {
        image
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_le_bytes)
    };
    let headers = at(32)? as usize;
    let count = (short(56)? & 0xffff) as usize;
    let mut headers = (0..count).map(|number| headers + number * 56);
    let dynamic = headers.find(|header| short(*header) == Some(DYNAMIC))?;
    let mut entry = at(dynamic + 8)? as usize;
    let (mut strings, mut symbols) = (0, 0);
    while at(entry)? != 0 {
        match at(entry)? {
            STRINGS => strings = at(entry + 8)? as usize,
            SYMBOLS => symbols = at(entry + 8)? as usize,
            _ => {}
        }
        entry += 16;
    }
    // The names stand behind the symbols.
    (symbols..strings).step_by(24).find_map(|entry| {
        let name = image.get(strings + short(entry)? as usize..)?;
        let rest = name.strip_prefix(wanted)?;
        (rest.first() == Some(&0)).then(|| at(entry + 8))?
    })
}

/// A worker of `queue` whose command stands at a pipe of its own until what is given with it is dropped.
fn stuck_worker(server: &Server, queue: &str, place: &Path) -> (Running, File) {
    let pipe = place.join(queue);
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let command = format!("cat '{}'", pipe.display());
    let args = ["work", queue, "--json", "--count", "1", "--exec", &command];
    let mut worker = Command::new(MILLSTREAM);
    worker.args(args).env("MILLSTREAM_SERVER", server.address());
    let worker = Running::of(&mut worker);
    (worker, OpenOptions::new().write(true).open(pipe).unwrap())
}

fn worked_off(server: &Server, queue: &str) -> String {
    let ended = server.run(&["work", queue, "--wait", "50ms"]).expect(0);
    String::from_utf8(ended.stdout).unwrap()
}

fn publish(server: &Server, queue: &str, more: &[&str], body: &str) -> Value {
    let args = [&["pub", queue, "--json"], more].concat();
    server.run_with(&args, body.as_bytes()).expect(0).json()
}

/// Ends the lease of a worker that stands still, ten years on; its ack comes late.
fn ack_late(server: &Server, place: &Path) {
    server
        .run(&["queue", "create", "q", "--lease", "2s", "--backoff", "0"])
        .expect(0);
    server
        .run(&["queue", "create", "long", "--lease", "1h"])
        .expect(0);
    publish(server, "q", &[], "a\n");
    publish(server, "long", &[], "b\n");
    let (mut held, at_pipe) = stuck_worker(server, "long", place);
    let (late, at_its_pipe) = stuck_worker(server, "q", place);
    // It extends its lease no more.
    late.signal(Signal::STOP);
    server.signal(Signal::STOP);
    set_wall_clock(server.pid(), TEN_YEARS_S).unwrap();
    server.signal(Signal::CONT);
    let again = server
        .run(&["work", "q", "--count", "1", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&again["body"], &again["attempts"]),
        (&json!("a"), &json!(2))
    );
    drop(at_its_pipe);
    late.signal(Signal::CONT);
    let report = late.wait().expect(0).json();
    assert_eq!((&report["acked"], &report["lost"]), (&json!(0), &json!(1)));
    assert_eq!(worked_off(server, "q"), "", "once more, and no more");
    let totals = &server.queue("q")["totals"];
    assert_eq!(
        (&totals["acked"], &totals["lease_expired"]),
        (&json!(1), &json!(1))
    );
    // A lease of an hour goes by the other clock.
    assert!(!held.has_ended());
    drop(at_pipe);
    assert_eq!(held.wait().expect(0).json()["acked"], 1);
    assert_eq!(server.queue("long")["totals"]["lease_expired"], 0);
}

fn ten_years_on(io: &'static str) {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = small_ext4("a_late_ack", place.path()) else {
        return;
    };
    let data = disk.files().join("data");
    let server = Server::start(Setup::io(io), &data);
    if let Err(lacking) = set_wall_clock(server.pid(), 0) {
        eprintln!("SKIPPED a_late_ack, {io}: {lacking}");
        return;
    }
    server.run(&["queue", "create", "later"]).expect(0);
    server
        .run(&["queue", "create", "aged", "--max-age", "2h"])
        .expect(0);
    publish(&server, "later", &["--delay", "1h"], "due\n");
    publish(&server, "later", &["--expires", "2h"], "fresh\n");
    publish(&server, "later", &["--id", "one"], "named\n");
    publish(&server, "aged", &[], "young\n");

    ack_late(&server, place.path());

    // Nothing is due, expired, too old or forgotten because of a clock that was set.
    let again = publish(&server, "later", &["--id", "one"], "named\n");
    assert_eq!(again["duplicates"], 1, "{again}");
    assert_eq!(worked_off(&server, "later"), "fresh\nnamed\n");
    assert_eq!(worked_off(&server, "aged"), "young\n");
    assert_eq!(server.queue("later")["delayed"], 1);

    server
        .run(&["queue", "set", "q", "--lease", "1m"])
        .expect(0);
    let input = place.path().join("input");
    let sent = Numbers::new(11).bytes(INPUT_BYTES);
    fs::write(&input, &sent).unwrap();
    for cycle in 0..2 {
        let filled = until("room", || match fill(&server, &input) {
            0 => Err(()),
            filled => Ok(filled),
        });
        assert_eq!(drain(&server, &sent), filled, "cycle {cycle}");
    }
    let said = server.terminate().expect(0).stderr;
    assert!(said.contains("wall clock jumped"), "{said}");
    millstream(&["verify", data.to_str().unwrap()]).expect(0);
    let server = Server::start(Setup::io(io), &data);
    assert_eq!(server.queue("later")["delayed"], 1, "the hour is not over");
    assert_eq!(worked_off(&server, "q"), "");
    server.terminate().expect(0);
    println!(
        "{io}: a late ack ten years on was refused, its message came once more; then a full disk"
    );
}

#[test]
fn a_late_ack_behind_a_clock_ten_years_on_and_then_a_full_disk() {
    for io in ["uring", "epoll"] {
        ten_years_on(io);
    }
}
