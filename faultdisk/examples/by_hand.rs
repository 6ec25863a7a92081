//! A disk that fails as it is told, by hand.
//!
//! Mounts it and carries out what standard input says, one command a line. All else than these is
//! run by `sh`, in the root of the mounted file system and with its mounts:
//!
//! ```text
//! fail write|flush NTH    the NTH write or flush from now on fails, once
//! cut SEED                the power fails
//! plug                    power again: mounts what survived
//! flip BIT TEXT           that bit of TEXT's first byte is read wrong, where TEXT first stands on the disk
//! counts                  requests so far
//! ```
//! Needs root: `cargo run -p millstream-faultdisk --example by_hand -- ext4 < commands`.

use std::error::Error;
use std::io::{self, BufRead};
use std::process::Command;

use millstream_faultdisk::{Fault, FaultDisk, Format, Request, isolate};

const DISK_BYTES: u64 = 512 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    isolate()?;
    let format = match std::env::args().nth(1).as_deref() {
        Some("xfs") => Format::Xfs,
        _ => Format::Ext4,
    };
    let place = tempfile::tempdir()?;
    let image = format.make(DISK_BYTES, place.path())?;
    let mut disk = FaultDisk::insert(image, format, place.path())?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        println!("> {line}");
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            ["fail", "write", nth] => disk.arm(Request::Write, nth.parse()?, Fault::Error),
            ["fail", "flush", nth] => disk.arm(Request::Flush, nth.parse()?, Fault::Error),
            ["cut", seed] => {
                disk.cut(seed.parse()?);
                println!("of the sectors under way: {:?}", disk.survived());
            }
            ["plug"] => disk = FaultDisk::insert(disk.remove()?, format, place.path())?,
            ["flip", bit, text] => match disk.find(text.as_bytes()) {
                Some(at) => {
                    disk.flip(at, 1 << bit.parse::<u8>()?);
                    println!("byte {at} of the disk");
                }
                None => println!("it is not on the disk"),
            },
            ["counts"] => println!("{:?}", disk.counts()),
            _ => {
                let mut sh = Command::new("sh");
                let status = sh.args(["-c", &line]).current_dir(disk.files()).status()?;
                if !status.success() {
                    println!("({status})");
                }
            }
        }
    }
    Ok(())
}
