//! A server on a disk that fails.

use std::path::PathBuf;
use std::sync::OnceLock;

use millstream_faultdisk::{FaultDisk, Format, Image, isolate};
use tempfile::TempDir;

use crate::harness::{Ended, Server, Setup, millstream};
use crate::ledger::{Ledger, Publishers};

/// As large as xfs wants it; what is not written takes no memory.
const DISK_BYTES: u64 = 512 << 20;

/// The two ways to talk to sockets.
const IO: [&str; 2] = ["uring", "epoll"];

/// Whether such disks can be had here; says why not.
pub(crate) fn available(test: &str) -> bool {
    isolate()
        .inspect_err(|lacking| eprintln!("SKIPPED {test}: {lacking}"))
        .is_ok()
}

/// Formats that can be made here, each with an empty disk of it.
fn formatted() -> &'static [(Format, Image)] {
    static FORMATTED: OnceLock<Vec<(Format, Image)>> = OnceLock::new();
    FORMATTED.get_or_init(|| {
        let scratch = tempfile::tempdir().unwrap();
        [Format::Ext4, Format::Xfs]
            .into_iter()
            .filter_map(|format| match format.make(DISK_BYTES, scratch.path()) {
                Ok(image) => Some((format, image)),
                Err(error) => {
                    eprintln!("SKIPPED all tests on {}: {error}", format.name());
                    None
                }
            })
            .collect()
    })
}

/// Whether all is to be tried that can be, and not a sample.
pub(crate) fn thorough() -> bool {
    std::env::var("MILLSTREAM_FAULTDISK").is_ok_and(|which| which == "all")
}

/// Empty disks to try, and over which I/O path: each format and each path once, or all pairs.
pub(crate) fn disks() -> Vec<(&'static (Format, Image), &'static str)> {
    let formatted = formatted();
    let each_once = formatted.len() == IO.len() && !thorough();
    let paths = IO.iter().enumerate();
    paths
        .flat_map(|(path, &io)| {
            let disks = formatted.iter().enumerate();
            disks
                .filter(move |(format, _)| !each_once || *format == path)
                .map(move |(_, disk)| (disk, io))
        })
        .collect()
}

/// A number of rounds from the environment, or the one that is done by default.
pub(crate) fn rounds(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A machine whose disk can be made to fail. Its server must be dropped before it.
pub(crate) struct Rig {
    disk: Option<FaultDisk>,
    format: Format,
    io: &'static str,
    /// Starts of servers so far.
    life: u32,
    place: TempDir,
}

impl Rig {
    pub(crate) fn new((format, image): &(Format, Image), io: &'static str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let disk = FaultDisk::insert(image.clone(), *format, place.path()).unwrap();
        Self {
            disk: Some(disk),
            format: *format,
            io,
            life: 0,
            place,
        }
    }

    pub(crate) fn disk(&self) -> &FaultDisk {
        self.disk.as_ref().unwrap()
    }

    pub(crate) fn life(&self) -> u32 {
        self.life
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.disk().files().join("data")
    }

    /// Starts a server; one that does not come up is told of.
    pub(crate) fn try_start(&mut self) -> Result<Server, Ended> {
        self.life += 1;
        let more = ["--json", "--threads", "2"];
        Server::try_of(&mut Setup::io(self.io).serve(&self.data(), &more))
    }

    #[track_caller]
    pub(crate) fn start(&mut self) -> Server {
        self.try_start()
            .unwrap_or_else(|ended| panic!("the server did not start: {ended:?}"))
    }

    /// Takes the disk out and puts it in again: what the page cache held is gone.
    pub(crate) fn remount(&mut self) {
        let image = self.disk.take().unwrap().remove().unwrap();
        let disk = FaultDisk::insert(image, self.format, self.place.path()).unwrap();
        self.disk = Some(disk);
    }

    /// Cuts the power under a server, and puts it on again.
    pub(crate) fn pull_the_plug(&mut self, server: Server, seed: u64) {
        self.disk().cut(seed);
        server.kill();
        self.remount();
    }

    /// Publishes so many messages to each topic, one publisher each; gives the first error.
    pub(crate) fn publish(
        &self,
        server: &Server,
        topics: &mut [(&str, Ledger)],
        most: u32,
    ) -> Option<String> {
        let started: Vec<Publishers> = topics
            .iter()
            .map(|(topic, _)| Publishers::start(server, topic, self.life, &[0], most))
            .collect();
        let errors = started.into_iter().zip(topics);
        errors
            .map(|(publishers, (_, ledger))| publishers.finish(ledger))
            .fold(None, Option::or)
    }

    /// Stops the server in peace; the folder must be sound, but for what recovery has told of.
    #[track_caller]
    pub(crate) fn stop(&self, server: Server) {
        server.terminate().expect(0);
        let verified = millstream(&["verify", self.data().to_str().unwrap(), "--json"]);
        if verified.code != Some(0) {
            let report = verified.json();
            let problems = report["problems"].as_array().unwrap();
            let told = |fault: &str| fault.contains("acknowledged");
            assert!(
                problems
                    .iter()
                    .all(|problem| told(problem["fault"].as_str().unwrap())),
                "{report}"
            );
        }
    }
}
