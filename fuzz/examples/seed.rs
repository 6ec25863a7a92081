//! Makes the first inputs of each corpus from the protocol's golden vectors.
//!
//! Each vector goes in as it is, cut short, and with a few bits flipped where the layout is thick.
//! Files are named by the checksum of what they hold, so running it again changes nothing.

use std::fs;
use std::path::Path;

use millstream_fuzz::TARGETS;
use millstream_protocol::checksum::crc32c;
use millstream_protocol::wire::{MessageKind, Phase};

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for target in TARGETS {
        fs::create_dir_all(root.join("corpus").join(target.0))?;
    }
    let mut streams: [Vec<u8>; 2] = Default::default();
    let mut paths: Vec<_> = fs::read_dir(root.join("../protocol/tests/golden/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let bytes = read_hex(&fs::read_to_string(&path)?);
        let is_frame = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("frame-"));
        if is_frame {
            save_all(root, "frame", &[], &bytes)?;
            save_batch(root, &bytes)?;
            continue;
        }
        save_all(root, "control", &bytes[..1], &bytes[32..])?;
        save(root, "control", &[&bytes[..1], &[0], &bytes[32..]].concat())?;
        let kind = MessageKind::from_code(bytes[0]).expect("golden messages have a kind");
        let phases = [
            Phase::ServerBeforeHello,
            Phase::Server,
            Phase::ClientBeforeWelcome,
            Phase::Client,
        ];
        let phase = phases
            .iter()
            .position(|phase| kind.may_come(*phase))
            .expect("it may come");
        save_all(root, "wire", &[phase as u8, 3, 1, 31, 2], &bytes)?;
        if kind.may_come(Phase::Server) {
            streams[0].extend_from_slice(&bytes);
        }
        if kind.may_come(Phase::Client) {
            streams[1].extend_from_slice(&bytes);
        }
    }
    for (phase, stream) in [1, 3].into_iter().zip(&streams) {
        save(
            root,
            "wire",
            &[&[phase, 4, 10, 40, 100, 255], stream.as_slice()].concat(),
        )?;
    }
    save_assemblies(root)
}

/// How archives of two records are put together: plain, with each kind of column, with a gap.
fn save_assemblies(root: &Path) -> std::io::Result<()> {
    let two = [2, 0, 0, 2, 3, 4, 0];
    save(root, "batch", &[two.as_slice(), &[0]].concat())?;
    for kind in 1..=8_u8 {
        let column: &[u8] = match kind {
            1 | 3 | 4 => &[2, 1, 2, 0, 3, b'a', b'b', b'c'],
            2 => &[6, 1, 1, 1, 1, 2, 0, 0, 4, b'n', b'v', b'm', b'w'],
            5..=7 => &[0, 2, 7, 9, 0],
            _ => &[0, 0, 2, 7, 9],
        };
        save(
            root,
            "batch",
            &[two.as_slice(), &[1, kind], column].concat(),
        )?;
    }
    save(root, "batch", &[2, 0, 0, 2, 3, 4, 255, 0])
}

/// The body of a published batch, plain or compressed, as the batch target takes it.
fn save_batch(root: &Path, frame: &[u8]) -> std::io::Result<()> {
    let (header, body) = frame.split_at(64);
    let published = header[..8] == [0; 8] && header[32] == 2;
    if published {
        // A byte before the archive moves nothing within it, and is not part of its one form.
        save(
            root,
            "batch",
            &[&[0, header[34], header[35], 0], body].concat(),
        )?;
        save_all(
            root,
            "batch",
            &[header[33] & 1, header[34], header[35]],
            body,
        )?;
    }
    Ok(())
}

/// The bytes behind a prefix: as they are, cut short, and with bits flipped at both ends.
fn save_all(root: &Path, target: &str, prefix: &[u8], bytes: &[u8]) -> std::io::Result<()> {
    save(root, target, &[prefix, bytes].concat())?;
    save(root, target, &[prefix, &bytes[..bytes.len() / 2]].concat())?;
    let ends = [
        0,
        bytes.len().saturating_sub(24),
        bytes.len().saturating_sub(4),
    ];
    for at in ends.into_iter().filter(|at| *at < bytes.len()) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 0x04;
        save(root, target, &[prefix, &flipped].concat())?;
    }
    Ok(())
}

fn save(root: &Path, target: &str, input: &[u8]) -> std::io::Result<()> {
    let name = format!("{:08x}", crc32c(input));
    fs::write(root.join("corpus").join(target).join(name), input)
}

fn read_hex(text: &str) -> Vec<u8> {
    let hex = text.lines().filter_map(|line| line.split('#').next());
    hex.flat_map(str::split_whitespace)
        .map(|pair| u8::from_str_radix(pair, 16).expect("two hex digits"))
        .collect()
}
