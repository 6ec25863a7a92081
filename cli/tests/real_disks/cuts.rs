//! The power fails while publishers publish, the file system stops where it stands, flushes take
//! their time.

use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use millstream_client::blocking::Client;
use millstream_client::{AckLevel, PublisherOptions};
use millstream_faultdisk::{Fault, Request, Shutdown, shut_down};

use crate::harness::{Numbers, Server, until};
use crate::ledger::{Ledger, Publishers, Said};
use crate::rig::{Rig, available, disks, rounds};

/// Power cuts on each kind of disk, unless `MILLSTREAM_FAULTDISK_CUTS` says otherwise.
const CUTS: u32 = 4;
/// Power cuts that one disk lives through; after more it would be full.
const CUTS_OF_A_DISK: u32 = 5;
const PUBLISHERS: [u32; 4] = [0, 1, 2, 3];
/// More than a publisher comes to send.
const ENDLESS: u32 = 1_000_000;

/// What happens to the disk under load, and when.
#[derive(Debug, Clone, Copy)]
enum Misfortune {
    /// The power fails after so many acknowledgements, in all.
    CutAfterAcks(u64),
    /// The power fails at this request from the first acknowledgement on.
    CutAt(Request, u64),
    /// The file system is shut down after so many acknowledgements.
    ShutDown(Shutdown, u64),
}

/// Four publishers on one topic, until `misfortune` stops them; `seed` is the power cut's.
fn publish_until(
    rig: &Rig,
    server: &Server,
    (misfortune, seed): (Misfortune, u64),
    ledger: &mut Ledger,
) {
    let publishers = Publishers::start(server, "t", rig.life(), &PUBLISHERS, ENDLESS);
    let mut acked = 0;
    for said in publishers.said {
        if matches!(said, Said::Acked(..)) {
            acked += 1;
            match misfortune {
                Misfortune::CutAt(request, nth) if acked == 1 => {
                    rig.disk().arm(request, nth, Fault::Cut(seed));
                }
                Misfortune::CutAfterAcks(goal) if acked == goal => rig.disk().cut(seed),
                Misfortune::ShutDown(how, goal) if acked == goal => {
                    shut_down(rig.disk().files(), how).unwrap();
                }
                Misfortune::CutAt(..) | Misfortune::CutAfterAcks(_) | Misfortune::ShutDown(..) => {}
            }
        }
        ledger.note(said);
    }
}

#[test]
fn power_cuts_under_load_lose_nothing_acknowledged() {
    if !available("power_cuts_under_load_lose_nothing_acknowledged") {
        return;
    }
    let cuts = rounds("MILLSTREAM_FAULTDISK_CUTS", CUTS);
    for (disk, io) in disks() {
        let mut numbers = Numbers::new(u64::from(cuts));
        let mut tally = Tally::default();
        for done in (0..cuts).step_by(CUTS_OF_A_DISK as usize) {
            let mut rig = Rig::new(disk, io);
            let most = CUTS_OF_A_DISK.min(cuts - done);
            live_through_cuts(&mut rig, most, &mut numbers, &mut tally);
        }
        println!("{} {io}: 0 lost of {tally:?}", disk.0.name());
        assert!(tally.acked > 0 && tally.new + tally.old > 0);
    }
}

#[derive(Debug, Default)]
struct Tally {
    cuts: u32,
    sent: u32,
    acked: usize,
    there: usize,
    /// Sectors under way at a cut of which the new content stayed, and the old.
    new: usize,
    old: usize,
}

fn live_through_cuts(rig: &mut Rig, cuts: u32, numbers: &mut Numbers, tally: &mut Tally) {
    let mut ledger = Ledger::default();
    let mut there = 0;
    for round in 0..cuts {
        let server = rig.start();
        assert!(ledger.check(&server, "t") >= there, "what was read is gone");
        let number = numbers.next();
        let misfortune = match round % 3 {
            0 => Misfortune::CutAfterAcks(1 + number % 60),
            1 => Misfortune::CutAt(Request::Write, 1 + number % 40),
            _ => Misfortune::CutAt(Request::Flush, 1 + number % 20),
        };
        let seed = numbers.next();
        publish_until(rig, &server, (misfortune, seed), &mut ledger);
        let survived = rig.disk().survived();
        let survived = survived.unwrap_or_else(|| panic!("{misfortune:?} never came: {ledger:?}"));
        tally.new += survived.new;
        tally.old += survived.old;
        rig.pull_the_plug(server, 0);
        let server = rig.start();
        there = ledger.check(&server, "t");
        rig.stop(server);
        rig.remount();
    }
    tally.cuts += cuts;
    tally.sent += ledger.sent();
    tally.acked += ledger.acked();
    tally.there += there;
}

#[test]
fn a_file_system_shut_down_under_load_loses_nothing_acknowledged() {
    if !available("a_file_system_shut_down_under_load_loses_nothing_acknowledged") {
        return;
    }
    for (disk, io) in disks() {
        let mut rig = Rig::new(disk, io);
        let mut ledger = Ledger::default();
        for how in [Shutdown::Flush, Shutdown::Log, Shutdown::Nothing] {
            let server = rig.start();
            publish_until(
                &rig,
                &server,
                (Misfortune::ShutDown(how, 30), 0),
                &mut ledger,
            );
            server.kill();
            rig.remount();
            let server = rig.start();
            ledger.check(&server, "t");
            rig.stop(server);
        }
        println!(
            "{} {io}: 3 shutdowns, {} sent, {} acknowledged, 0 lost",
            disk.0.name(),
            ledger.sent(),
            ledger.acked()
        );
    }
}

#[test]
fn acknowledgements_wait_for_a_slow_sync_and_nothing_else_does() {
    if !available("acknowledgements_wait_for_a_slow_sync_and_nothing_else_does") {
        return;
    }
    for (disk, io) in disks() {
        let mut rig = Rig::new(disk, io);
        let mut topics = [("t", Ledger::default())];
        let server = rig.start();
        assert_eq!(rig.publish(&server, &mut topics, 2), None);
        let client = Client::connect(format!("millstream://{}", server.address())).unwrap();
        let stored = PublisherOptions::new().ack(AckLevel::Stored);
        let mut other = client.publisher_with("other", stored).unwrap();
        other.publish("before").unwrap();
        let [(_, ledger)] = &mut topics;

        // While a flush is under way its messages are not acknowledged, but others are taken.
        let flushes = rig.disk().hold_flushes();
        let held = Publishers::start(&server, "t", rig.life() + 100, &[0], 1);
        until("a flush", || match flushes.waiting() {
            0 => Err("none"),
            _ => Ok(()),
        });
        other.publish("meanwhile").unwrap();
        assert_eq!(held.said.try_recv().err(), Some(TryRecvError::Empty));
        drop(flushes);
        assert_eq!(held.finish(ledger), None);

        rig.disk().slow_flushes(Duration::from_millis(15));
        let slow = Publishers::start(&server, "t", rig.life() + 200, &PUBLISHERS, 10);
        assert_eq!(slow.finish(ledger), None);
        rig.pull_the_plug(server, 3);
        let server = rig.start();
        assert_eq!(ledger.check(&server, "t"), 2 + 1 + 40);
        rig.stop(server);
    }
}

#[test]
fn what_was_settled_is_not_delivered_again_after_a_power_cut() {
    if !available("what_was_settled_is_not_delivered_again_after_a_power_cut") {
        return;
    }
    const RECORDS: usize = 30;
    const EACH: usize = 9;
    for (disk, io) in disks() {
        let mut rig = Rig::new(disk, io);
        let server = rig.start();
        server.run(&["queue", "create", "q"]).expect(0);
        let text: String = (0..RECORDS).map(|number| format!("{number}\n")).collect();
        server.run_with(&["pub", "q"], text.as_bytes()).expect(0);
        let mut came = String::new();
        for (seed, server) in (1..).zip([Some(server), None, None]) {
            let server = server.unwrap_or_else(|| rig.start());
            // It ends once all that it took is known to be settled.
            let work = ["work", "q", "--count", &EACH.to_string()];
            let printed = server.run(&work).expect(0).stdout;
            came += std::str::from_utf8(&printed).unwrap();
            rig.pull_the_plug(server, seed);
        }
        let server = rig.start();
        let rest = server.run(&["work", "q", "--wait", "100ms"]).expect(0);
        came += std::str::from_utf8(&rest.stdout).unwrap();
        assert_eq!(came, text, "each once, in order");
        rig.stop(server);
    }
}
