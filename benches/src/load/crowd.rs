//! A load of many publishers, over as many connections or fewer: the same total under way, whoever sends
//! it. Each processor has a thread that carries its share of the connections.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle, available_parallelism};

use millstream_client::{Address, Client, Publisher, Ticket};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::Run;
use super::generator::{put_together, watch};
use super::maker::Maker;
use super::part::Part;
use super::receiving::read_back;
use super::shared::{Load, Progress, Shared, Tell};
use crate::broker::{Broker, Failure};

/// Runs `load` once, single messages of as many publishers as it has, over this many connections; its
/// window is that of all together.
///
/// # Errors
///
/// What the broker said, or that it does not speak Millstream's protocol.
pub fn run_crowd(
    broker: &dyn Broker,
    (load, connections): (&Load, usize),
    name: &str,
    tell: Tell<'_>,
) -> Result<Run, Failure> {
    let topics = [name.to_owned()];
    broker.create(name, load.kind)?;
    let ran = run_on(broker, (load, connections), &topics, tell);
    let removed = broker.remove(name);
    let run = ran?;
    removed?;
    Ok(run)
}

fn run_on(
    broker: &dyn Broker,
    (load, connections): (&Load, usize),
    topics: &[String],
    tell: Tell<'_>,
) -> Result<Run, Failure> {
    tell(Progress::Phase("connecting"));
    let shares = shares(broker, (load, connections), &topics[0], tell)?;
    tell(Progress::Phase("measuring"));
    let shared = Arc::new(Shared::new(load, &vec![0; load.publishers()], 0));
    let (mut run, shares) = thread::scope(|scope| {
        let publishing = shares.into_iter().map(|mut share| {
            let shared = Arc::clone(&shared);
            scope.spawn(move || {
                let crowd = std::mem::take(&mut share.crowd);
                let done = share.runtime.block_on(publish(crowd, &shared));
                done.map(|(part, crowd)| {
                    share.crowd = crowd;
                    (part, share)
                })
            })
        });
        let publishing: Vec<_> = publishing.collect();
        let nobody: [ScopedJoinHandle<'_, ()>; 0] = [];
        let used = watch(broker, &shared, &publishing, &nobody, tell);
        let mut parts = Vec::new();
        let mut shares = Vec::new();
        for thread in publishing {
            let done = thread.join().map_err(|_| "a thread of the load panicked")?;
            let (part, share) = done?;
            parts.push(part);
            shares.push(share);
        }
        let mut run = put_together(&shared, 0, &parts);
        run.generator = used.generator();
        run.broker = used.broker();
        run.figures.extend(used.drift());
        Ok::<_, Failure>((run, shares))
    })?;
    run.delivered = read_back(broker, load, &shared.counts(), topics, tell)?;
    drop(shares);
    Ok(run)
}

/// What one thread carries. The connections end before the runtime they are in.
struct Share {
    crowd: Vec<Member>,
    _clients: Vec<Client>,
    runtime: Runtime,
}

/// One of the crowd.
struct Member {
    /// Among all publishers.
    number: usize,
    publisher: Publisher,
}

/// The crowd, its connections dealt out to as many threads as there are processors, and made by them side
/// by side: a runtime that stands still answers no heartbeat.
fn shares(
    broker: &dyn Broker,
    (load, connections): (&Load, usize),
    topic: &str,
    tell: Tell<'_>,
) -> Result<Vec<Share>, Failure> {
    let address = broker.address().ok_or("only Millstream takes a crowd")?;
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    let dealt = dealt(load.publishers(), connections, processors);
    thread::scope(|scope| {
        let connecting = dealt
            .into_iter()
            .map(|connections| scope.spawn(move || share(address, topic, connections, tell)));
        let connecting: Vec<_> = connecting.collect();
        let join = |thread: ScopedJoinHandle<'_, _>| {
            thread.join().map_err(|_| "a thread of the load panicked")?
        };
        connecting.into_iter().map(join).collect()
    })
}

/// Of each thread, of each of its connections, the numbers of its publishers.
fn dealt(publishers: usize, connections: usize, threads: usize) -> Vec<Vec<Vec<usize>>> {
    let connections = connections.clamp(1, publishers);
    let of_connection = |connection| (connection..publishers).step_by(connections).collect();
    let of_thread = |first| (first..connections).step_by(threads).map(of_connection);
    (0..threads.min(connections))
        .map(|first| of_thread(first).collect())
        .collect()
}

/// Makes these connections, each with publishers of these numbers.
fn share(
    address: &Address,
    topic: &str,
    connections: Vec<Vec<usize>>,
    tell: Tell<'_>,
) -> Result<Share, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (crowd, clients) = runtime.block_on(async {
        let (mut crowd, mut clients) = (Vec::new(), Vec::new());
        for numbers in connections {
            let client = Client::connect(address.clone()).await?;
            for number in numbers {
                let publisher = client.publisher(topic).await?;
                crowd.push(Member { number, publisher });
            }
            clients.push(client);
            tell(Progress::Messages(0));
        }
        Ok::<_, Failure>((crowd, clients))
    })?;
    Ok(Share {
        crowd,
        _clients: clients,
        runtime,
    })
}

async fn publish(crowd: Vec<Member>, shared: &Arc<Shared>) -> Result<(Part, Vec<Member>), Failure> {
    let part = Arc::new(Mutex::new(Part::new(shared)));
    let mut tasks = JoinSet::new();
    for member in crowd {
        let (shared, part) = (Arc::clone(shared), Arc::clone(&part));
        tasks.spawn(async move {
            let done = one(member, &shared, &part).await;
            shared.note_failure(done)
        });
    }
    let mut crowd = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        crowd.push(joined??);
    }
    let part = Arc::into_inner(part).ok_or("all tasks have ended")?;
    let part = part.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((part, crowd))
}

/// Publishes what falls to one of them, until the run is over.
async fn one(mut member: Member, shared: &Shared, part: &Mutex<Part>) -> Result<Member, Failure> {
    let asked = &shared.load.parameters;
    let window = (asked.window / shared.load.publishers()).max(1);
    let number = member.number;
    let mut maker = Maker::new(number, shared.load.sizes());
    let mut under_way: VecDeque<(Ticket, u64)> = VecDeque::new();
    loop {
        let now_ns = shared.now_ns();
        let over = now_ns >= shared.end_ns || shared.has_failed();
        if !over && under_way.len() < window {
            let (message, _) = maker.make(1, |_| now_ns);
            under_way.push_back((member.publisher.enqueue_body(message).await?, now_ns));
            continue;
        }
        let Some((ticket, sent_ns)) = under_way.pop_front() else {
            return Ok(member);
        };
        ticket.await?;
        let times = (shared.now_ns(), sent_ns);
        let bytes = asked.message_bytes as u64;
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        part.count(shared, times, (1, bytes));
        // Relaxed: a count; the last one is read when all tasks were joined.
        shared.acknowledged[number].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_publisher_has_one_connection_and_each_connection_one_thread() {
        for (publishers, connections, threads) in [(1, 1, 2), (32, 32, 2), (32, 1, 2), (10, 3, 4)] {
            let dealt = dealt(publishers, connections, threads);
            assert_eq!(dealt.len(), threads.min(connections));
            let made: Vec<_> = dealt.into_iter().flatten().collect();
            assert_eq!(made.len(), connections);
            let few = publishers / connections;
            let is_even = |numbers: &Vec<usize>| (few..=few + 1).contains(&numbers.len());
            assert!(made.iter().all(is_even), "{made:?}");
            let mut numbers: Vec<_> = made.into_iter().flatten().collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..publishers));
        }
    }
}
