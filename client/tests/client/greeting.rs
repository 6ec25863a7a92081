//! Hello and welcome.

use std::time::Instant;

use bytes::BytesMut;
use millstream_client::core::{Core, Greeting};
use millstream_client::{ConnectionError, ErrorCode};
use millstream_protocol::control::{Goodbye, Hello, Welcome};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, next_message};

use crate::script::{bare, encoded, refusal, welcome};

fn receive(bytes: &[u8]) -> Result<Option<Core>, ConnectionError> {
    Greeting::new("test").receive(Instant::now(), &mut BytesMut::from(bytes))
}

fn welcomed(welcome: &Welcome) -> Result<Option<Core>, ConnectionError> {
    receive(&encoded(|out| welcome.encode(StreamId::CONNECTION, 0, out)))
}

fn violation(result: Result<Option<Core>, ConnectionError>) -> String {
    match result {
        Err(ConnectionError::Protocol { what }) => what.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_hello_is_what_servers_take() {
    let hello = Greeting::new("billing").hello();
    let Ok(Next::Message { header, body, .. }) = next_message(&hello, Phase::ServerBeforeHello)
    else {
        panic!("not a message");
    };
    assert_eq!(header.kind, MessageKind::Hello);
    let hello = Hello::decode(body).unwrap();
    assert_eq!(hello.client, "billing");
    assert_eq!((hello.version_min, hello.version_max), (1, 1));
}

#[test]
fn a_name_of_any_length_fits_the_hello() {
    let hello = Greeting::new("x".repeat(10_000)).hello();
    assert!(matches!(
        next_message(&hello, Phase::ServerBeforeHello),
        Ok(Next::Message { .. })
    ));
}

#[test]
fn a_welcome_in_pieces_is_waited_for_and_what_follows_is_left() {
    let mut bytes = encoded(|out| welcome().encode(StreamId::CONNECTION, 0, out));
    let whole = bytes.len();
    bytes.extend_from_slice(&bare(MessageKind::Ping, StreamId::CONNECTION, 3));
    for cut in 0..whole {
        assert!(receive(&bytes[..cut]).unwrap().is_none(), "{cut}");
    }
    let mut input = BytesMut::from(&bytes[..]);
    let core = Greeting::new("test").receive(Instant::now(), &mut input);
    assert_eq!(core.unwrap().unwrap().welcome(), &welcome());
    assert_eq!(input.len(), bytes.len() - whole);
}

#[test]
fn a_server_may_refuse() {
    let refused = receive(&refusal(
        StreamId::CONNECTION,
        0,
        ErrorCode::UnsupportedVersion,
    ));
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnsupportedVersion));
    assert!(!error.is_retriable());
    let goodbye = Goodbye {
        reason: "full".to_owned(),
    };
    let error = receive(&encoded(|out| goodbye.encode(StreamId::CONNECTION, 0, out)));
    let reason = "full".into();
    assert_eq!(
        error.unwrap_err(),
        ConnectionError::ClosedByServer { reason }
    );
}

#[test]
fn anything_but_a_welcome_is_refused() {
    assert!(violation(receive(b"HTTP/1.1 400 Bad Request\r\n")).contains("kind"));
    assert!(violation(receive(&bare(MessageKind::Ping, StreamId::CONNECTION, 1))).contains("Ping"));
    let mut damaged = encoded(|out| welcome().encode(StreamId::CONNECTION, 0, out));
    let at = damaged.len() - 1;
    damaged[at] ^= 1;
    violation(receive(&damaged));
}

#[test]
fn a_welcome_nobody_can_live_with_is_refused() {
    for (welcome, part) in [
        (
            Welcome {
                version: 2,
                ..welcome()
            },
            "version 2",
        ),
        (
            Welcome {
                version: 0,
                ..welcome()
            },
            "version 0",
        ),
        (
            Welcome {
                frame_bytes_max: 63,
                ..welcome()
            },
            "frame_bytes_max 63",
        ),
        (
            Welcome {
                publish_window_bytes: 0,
                ..welcome()
            },
            "publish_window_bytes 0",
        ),
        (
            Welcome {
                publish_window_frames: 0,
                ..welcome()
            },
            "publish_window_frames 0",
        ),
        (
            Welcome {
                heartbeat_ms: 0,
                ..welcome()
            },
            "heartbeat_ms 0",
        ),
        (
            Welcome {
                heartbeat_ms: u32::MAX,
                ..welcome()
            },
            "heartbeat_ms",
        ),
    ] {
        let what = violation(welcomed(&welcome));
        assert!(what.contains(part), "{what}");
    }
    let greedy = Welcome {
        frame_bytes_max: u32::MAX,
        publish_window_bytes: u32::MAX,
        publish_window_frames: u32::MAX,
        ..welcome()
    };
    let core = welcomed(&greedy).unwrap().unwrap();
    assert_eq!(core.limits().frame_bytes_max, 16 << 20);
    assert_eq!(core.limits().publish_window_bytes, 32 << 20);
    assert_eq!(core.limits().publish_window_frames, 4096);
}
