//! What a connection costs that has not said hello: counted over the whole process, so this is the
//! only test of its file.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod counting;
mod peer;

use std::io::{Read, Write};
use std::net::TcpStream;

use millstream::Broker;
use millstream_protocol::limits::PRE_HELLO_BYTES_MAX;
use millstream_server::{BindError, IoChoice, Listen, Server, ServerOptions};

use counting::held_bytes;
use peer::Script;

/// What connections that send `first` and nothing more cost each, in bytes of the server's heap.
fn cost_of_each(io: IoChoice, first: &[u8]) -> Result<isize, String> {
    const CALLERS: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let options = ServerOptions::new()
        .listen(Listen::Tcp(([127, 0, 0, 1], 0).into()))
        .io(io)
        .threads(1);
    let server = match Server::bind(&options, &broker) {
        Ok(server) => server,
        Err(BindError::UringRefused { reason }) => return Err(reason),
        Err(error) => panic!("{error}"),
    };
    let address = server.local_addr().unwrap();
    // Who is answered came behind all that were accepted before.
    let greet = || {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(&Script::hello().0).unwrap();
        let mut answer = [0; 16];
        socket.read_exact(&mut answer).unwrap();
        socket
    };
    let _first = greet();
    let before = held_bytes();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(first).unwrap();
            socket
        })
        .collect();
    let _last = greet();
    let after = held_bytes();
    drop(callers);
    Ok((after - before) / CALLERS as isize)
}

#[test]
fn a_connection_before_its_hello_costs_what_it_may_and_no_more() {
    let hello = Script::hello().0;
    for io in [IoChoice::Epoll, IoChoice::Uring] {
        for first in [&hello[..0], &hello[..1], &hello[..hello.len() - 1]] {
            match cost_of_each(io, first) {
                Ok(bytes) => {
                    eprintln!("{io:?}: {bytes} bytes after {} of a hello", first.len());
                    assert!(bytes <= 2 * PRE_HELLO_BYTES_MAX as isize, "{bytes}");
                }
                Err(reason) => eprintln!("SKIPPED the io_uring half of this test: {reason}"),
            }
        }
    }
}
