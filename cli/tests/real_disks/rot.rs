//! A bit that turns round below the file system, in a segment that is long finished.

use crate::harness::millstream;
use crate::rig::{Rig, available, disks};

/// Lines of the topic: more than its first segment takes.
const LINES: usize = 120_000;

fn line(number: usize) -> String {
    format!("line {number:08} {}\n", "x".repeat(50))
}

#[test]
fn a_bit_flipped_on_the_disk_is_found_told_and_read_around() {
    if !available("a_bit_flipped_on_the_disk_is_found_told_and_read_around") {
        return;
    }
    for (disk, io) in disks() {
        let mut rig = Rig::new(disk, io);
        let server = rig.start();
        let text: String = (0..LINES).map(line).collect();
        server
            .run_with(&["pub", "t", "--batch", "100"], text.as_bytes())
            .expect(0);
        server.terminate().expect(0);
        rig.remount();

        // It is in the first segment, of which the disk read it from now on with the bit flipped.
        let at = rig.disk().find(b"line 00005000").unwrap();
        rig.disk().flip(at, 1);
        let data = rig.data();
        let report = millstream(&["verify", data.to_str().unwrap(), "--json"])
            .expect(8)
            .json();
        let problem = &report["problems"][0];
        assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
        let file = problem["file"].as_str().unwrap();
        assert!(file.ends_with("00000001.seg"), "{problem}");
        let bytes = std::fs::read(data.join(file)).unwrap();
        let within = bytes
            .windows(13)
            .position(|window| window == b"mine 00005000")
            .unwrap() as u64;
        let position = problem["position"].as_u64().unwrap();
        assert!((position..position + 8192).contains(&within), "{problem}");

        let server = rig.start();
        let ended = server
            .run(&["tail", "t", "--no-follow", "--json"])
            .expect(8);
        let mut next = 0;
        let mut missing = 0;
        for told in ended.json_lines() {
            if let Some(gap) = told.get("gap") {
                let first = gap["first_offset"].as_u64().unwrap() as usize;
                assert_eq!(first, next, "{gap}");
                next = gap["next_offset"].as_u64().unwrap() as usize;
                missing += next - first;
                assert_eq!(gap["reason"], "damaged");
                continue;
            }
            assert_eq!(told["offset"], next);
            assert_eq!(told["body"], line(next).trim_end());
            next += 1;
        }
        assert_eq!(next, LINES);
        assert!(
            (100..=400).contains(&missing),
            "{missing} lines are missing"
        );
        server.run_with(&["pub", "t"], b"after\n").expect(0);
        server.terminate().expect(0);
        println!(
            "{} {io}: byte {at} of the disk, {file}, {missing} of {LINES} lines reported missing",
            disk.0.name()
        );
    }
}
