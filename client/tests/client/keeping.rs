//! How much of a topic is kept: set, asked for, and a server that does not know what that is.

use std::time::Duration;

use millstream_client::{
    Action, Client, ConnectOptions, Effect, ErrorCode, Retention, TopicError, TopicErrorCause,
    TopicOptions,
};
use millstream_protocol::control::features;

use crate::fake::{Fake, Fault};

const WEEK: Retention = Retention {
    bytes: 64 << 20,
    age_ms: 7 * 86_400_000,
};

/// A client of a server with these features, and a topic `t`.
async fn connected(features: u64) -> (Fake, Client) {
    let fake = Fake::tcp();
    fake.offer(features);
    let client = Client::connect(&fake.address).await.unwrap();
    let options = TopicOptions::new();
    client.create_topic("t", options).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn what_is_set_is_told() {
    let (_fake, client) = connected(features::ALL).await;
    assert_eq!(client.retention("t").await, Ok(Retention::KEEP_ALL));
    client.set_retention("t", WEEK).await.unwrap();
    assert_eq!(client.retention("t").await, Ok(WEEK));
    let keep_all = Retention::KEEP_ALL;
    client.set_retention("t", keep_all).await.unwrap();
    assert_eq!(client.retention("t").await, Ok(keep_all));
}

#[tokio::test]
async fn no_topic_has_no_retention() {
    let (_fake, client) = connected(features::RETENTION).await;
    let set = client.set_retention("nosuch", WEEK).await.unwrap_err();
    let told = client.retention("nosuch").await.unwrap_err();
    for (error, action, said) in [
        (
            set,
            Action::SetRetention,
            "cannot set the retention of the topic \"nosuch\": ",
        ),
        (
            told,
            Action::DescribeRetention,
            "cannot describe the retention of the topic \"nosuch\": ",
        ),
    ] {
        assert_eq!(error.action, action);
        assert_eq!(error.code(), Some(ErrorCode::TopicNotFound));
        assert_eq!(error.effect(), Effect::NotApplied);
        assert!(error.to_string().starts_with(said), "{error}");
    }
    let invalid = client.set_retention("a/b", WEEK).await.unwrap_err();
    assert!(matches!(invalid.cause, TopicErrorCause::Name(_)));
    let invalid = client.retention("a/b").await.unwrap_err();
    assert!(matches!(invalid.cause, TopicErrorCause::Name(_)));
}

fn assert_unsupported(error: &TopicError) {
    assert_eq!(error.code(), Some(ErrorCode::Unsupported));
    assert_eq!(
        (error.effect(), error.is_retriable()),
        (Effect::NotApplied, false)
    );
    let said = "this server knows no retention; a newer one does";
    assert!(error.to_string().contains(said), "{error}");
}

#[tokio::test]
async fn a_server_that_knows_no_retention_is_not_asked_for_it() {
    let (fake, client) = connected(features::PRODUCERS).await;
    // This one would answer.
    assert_unsupported(&client.set_retention("t", WEEK).await.unwrap_err());
    assert_unsupported(&client.retention("t").await.unwrap_err());
    client.topic("t").await.unwrap();
    fake.offer(features::RETENTION);
    let client = Client::connect(&fake.address).await.unwrap();
    assert_eq!(client.retention("t").await, Ok(Retention::KEEP_ALL));
}

#[tokio::test]
async fn an_unanswered_set_may_have_been_done() {
    let fake = Fake::tcp();
    fake.offer(features::RETENTION);
    let options = ConnectOptions::new().request_timeout(Duration::from_millis(1));
    let client = Client::connect_with(&fake.address, &options).await.unwrap();
    fake.fault(Fault::Mute);
    let set = client.set_retention("t", WEEK).await.unwrap_err();
    fake.fault(Fault::Mute);
    let told = client.retention("t").await.unwrap_err();
    for (error, effect) in [(set, Effect::Unknown), (told, Effect::NotApplied)] {
        assert_eq!(error.code(), Some(ErrorCode::TimedOut));
        assert_eq!(error.effect(), effect);
        assert_eq!(
            error.to_string().contains("unknown"),
            effect == Effect::Unknown
        );
    }
}
