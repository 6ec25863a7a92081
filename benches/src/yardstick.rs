//! What bounds a load on this machine, measured beside it: the same generator with nothing behind it,
//! the disk, the network, a wake-up.
//!
//! Each is a figure of the run it was measured with, and so are the ratios to it.

mod device;
mod feed;
mod network;
mod sink;
mod wire;

use std::path::Path;

use crate::broker::{Broker, Failure, Kind, Millstream};
use crate::load::{Course, Figure, Measured, Run, Tell, time_again};

/// Measures what bounds `measured`, as far as there is something that does.
pub(crate) fn beside(
    broker: &dyn Broker,
    measured: &Measured<'_>,
    tell: Tell<'_>,
) -> Result<Vec<Figure>, Failure> {
    let load = measured.load;
    let synced = broker.target().durability == "synced";
    let scratch = broker.folder().unwrap_or_else(|| Path::new("."));
    let mut figures = Vec::new();
    match (load.course, load.kind) {
        (Course::Publish, _) if load.parameters.window == 1 => {
            round_trips(measured.run, synced, scratch, &mut figures)?;
        }
        (Course::Publish, _) => {
            // The sinks leave the disk work to do.
            if synced {
                let device = device::synced_bytes_per_s(scratch)?;
                figures.push(Figure::new("device_bytes_per_s", device));
                let ratio = measured.run.bytes_per_s / device;
                figures.push(Figure::new("ratio_to_device", ratio));
            }
            beside_publish(broker, measured, tell, &mut figures)?;
        }
        (Course::Receive, Kind::Stream) => beside_read(broker, measured, tell, &mut figures)?,
        _ => {}
    }
    Ok(figures)
}

/// The same publishers into a sink that acknowledges and discards, and into one that writes to files.
fn beside_publish(
    broker: &dyn Broker,
    measured: &Measured<'_>,
    tell: Tell<'_>,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let durability = broker.target().durability.parse::<Level>()?.0;
    let mut sinks = vec![(None, "sink_messages_per_s", "ratio_to_sink")];
    // The disk of a server that was not started here is not known.
    if let Some(folder) = broker.folder() {
        let folder = Some(folder.to_owned());
        sinks.push((folder, "file_sink_messages_per_s", "ratio_to_file_sink"));
    }
    for (folder, rate_name, ratio_name) in sinks {
        let sink = sink::Sink::start(folder)?;
        let sink = Millstream::at(sink.address()?, durability);
        let run = time_again(&sink, measured, tell)?;
        figures.push(Figure::new(rate_name, run.messages_per_s));
        let ratio = measured.run.messages_per_s / run.messages_per_s.max(1.0);
        figures.push(Figure::new(ratio_name, ratio));
    }
    Ok(())
}

/// The same readers, fed with the same bytes from memory.
fn beside_read(
    broker: &dyn Broker,
    measured: &Measured<'_>,
    tell: Tell<'_>,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let (Some(address), [topic]) = (broker.address(), measured.topics) else {
        return Ok(());
    };
    let feed = feed::Feed::record(address, topic)?;
    let durability = broker.target().durability.parse::<Level>();
    let memory = Millstream::at(feed.address()?, durability?.0);
    let run = time_again(&memory, measured, tell)?;
    figures.push(Figure::new("memory_messages_per_s", run.messages_per_s));
    let ratio = measured.run.messages_per_s / run.messages_per_s.max(1.0);
    figures.push(Figure::new("ratio_to_memory", ratio));
    Ok(())
}

/// One message at a time: a round trip over TCP, and what the disk adds to it.
fn round_trips(
    run: &Run,
    synced: bool,
    scratch: &Path,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let p50_us = run.latency.p50_ns as f64 / 1e3;
    let parked_us = network::ping_pong_p50_us(network::Waiting::Parked)?;
    let polling_us = network::ping_pong_p50_us(network::Waiting::Polling)?;
    figures.extend([
        Figure::new("tcp_parked_p50_us", parked_us),
        Figure::new("tcp_polling_p50_us", polling_us),
        Figure::new("ratio_to_tcp_parked", p50_us / parked_us),
        Figure::new("ratio_to_tcp_polling", p50_us / polling_us),
    ]);
    if synced {
        let sync_us = device::sync_p50_us(scratch)?;
        let wake_us = network::wake_p50_us();
        let all_us = parked_us + sync_us + wake_us;
        figures.extend([
            Figure::new("sync_p50_us", sync_us),
            Figure::new("wake_p50_us", wake_us),
            Figure::new("ratio_to_tcp_sync_wake", p50_us / all_us),
        ]);
    }
    Ok(())
}

/// A durability by the name that a result has for it.
struct Level(millstream_client::Durability);

impl std::str::FromStr for Level {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        use millstream_client::Durability;
        match text {
            "stored" => Ok(Self(Durability::Stored)),
            "synced" => Ok(Self(Durability::Synced)),
            other => Err(format!("{other} is no durability").into()),
        }
    }
}
