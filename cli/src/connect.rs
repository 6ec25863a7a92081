//! The connection to a server, and what its errors mean for the exit code.

use std::time::Duration;

use millstream_client::{
    Client, ConnectError, ConnectOptions, ConsumeError, ErrorCode, PublishError, QueueError,
    QueueErrorCause, ReadError, TopicError,
};
use tokio::runtime::{Builder, Runtime};

use crate::args::ConnectArgs;
use crate::failure::{Exit, Failure};

/// How long the server may take to answer unless told otherwise.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A connected client, and the thread that keeps the connection alive whatever the caller does:
/// reading input and writing output may take as long as they like.
pub(crate) struct Connected {
    pub(crate) client: Client,
    pub(crate) runtime: Runtime,
}

/// Connects to the server that `args` name.
pub(crate) fn connect(args: &ConnectArgs) -> Result<Connected, Failure> {
    connect_waiting(args, answer_time(args))
}

/// As [`connect`], with an answer to each request awaited as long as `longest`.
pub(crate) fn connect_waiting(args: &ConnectArgs, longest: Duration) -> Result<Connected, Failure> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("mill-client")
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(Exit::Failed, format_args!("cannot start a thread: {error}"))
        })?;
    let mut options = ConnectOptions::new()
        .name(concat!("millstream/", env!("CARGO_PKG_VERSION")))
        .request_timeout(longest);
    if let Some(timeout) = args.timeout {
        options = options.timeout(timeout);
    }
    let client = runtime
        .block_on(Client::connect_with(args.server.clone(), &options))
        .map_err(|error| connect_failure(&error))?;
    Ok(Connected { client, runtime })
}

/// How long the server may take to answer.
pub(crate) fn answer_time(args: &ConnectArgs) -> Duration {
    args.timeout.unwrap_or(ANSWER_TIME)
}

/// What the command line says of a server that cannot be reached.
fn connect_failure(error: &ConnectError) -> Failure {
    let exit = match error {
        ConnectError::Address(_) => Exit::Usage,
        ConnectError::TimedOut { .. } => Exit::TimedOut,
        ConnectError::Thread { .. } => Exit::Failed,
        _ => Exit::CannotConnect,
    };
    Failure::new(exit, error)
}

/// What the command line says of a refused request about a topic.
pub(crate) fn topic_failure(error: &TopicError) -> Failure {
    Failure::new(exit_of(error.code()), error)
}

/// What the command line says of messages that were not published.
pub(crate) fn publish_failure(error: &PublishError) -> Failure {
    Failure::new(exit_of(error.code()), error)
}

/// What the command line says of a reader that ended.
pub(crate) fn read_failure(error: &ReadError) -> Failure {
    Failure::new(exit_of(error.code()), error)
}

/// What the command line says of a refused request about a queue or a cursor.
pub(crate) fn queue_failure(error: &QueueError) -> Failure {
    let exit = match error.cause {
        QueueErrorCause::Name(_) | QueueErrorCause::Settings(_) => Exit::Usage,
        _ => exit_of(error.code()),
    };
    Failure::new(exit, error)
}

/// What the command line says of a consumer that ended.
pub(crate) fn consume_failure(error: &ConsumeError) -> Failure {
    Failure::new(exit_of(error.code()), error)
}

/// The exit code that tells `code` best; without one, the connection was lost.
fn exit_of(code: Option<ErrorCode>) -> Exit {
    match code {
        None | Some(ErrorCode::ShuttingDown) => Exit::CannotConnect,
        Some(
            ErrorCode::TopicNotFound
            | ErrorCode::OffsetOutOfRange
            | ErrorCode::QueueNotFound
            | ErrorCode::CursorNotFound,
        ) => Exit::NotFound,
        Some(
            ErrorCode::TopicExists
            | ErrorCode::QueueExists
            | ErrorCode::TopicInUse
            | ErrorCode::LeaseLost
            | ErrorCode::Fenced,
        ) => Exit::Conflict,
        Some(ErrorCode::TopicNameInvalid | ErrorCode::QueueSettings) => Exit::Usage,
        Some(ErrorCode::TimedOut) => Exit::TimedOut,
        Some(ErrorCode::BadChecksum) => Exit::Damaged,
        Some(_) => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_scripts_act_on_have_an_exit_code_of_their_own() {
        assert_eq!(exit_of(None), Exit::CannotConnect);
        assert_eq!(exit_of(Some(ErrorCode::TopicNotFound)), Exit::NotFound);
        assert_eq!(exit_of(Some(ErrorCode::TopicExists)), Exit::Conflict);
        assert_eq!(exit_of(Some(ErrorCode::QueueNotFound)), Exit::NotFound);
        assert_eq!(exit_of(Some(ErrorCode::CursorNotFound)), Exit::NotFound);
        assert_eq!(exit_of(Some(ErrorCode::QueueExists)), Exit::Conflict);
        assert_eq!(exit_of(Some(ErrorCode::TopicInUse)), Exit::Conflict);
        assert_eq!(exit_of(Some(ErrorCode::Fenced)), Exit::Conflict);
        assert_eq!(exit_of(Some(ErrorCode::QueueSettings)), Exit::Usage);
        assert_eq!(exit_of(Some(ErrorCode::TimedOut)), Exit::TimedOut);
        assert_eq!(exit_of(Some(ErrorCode::BadChecksum)), Exit::Damaged);
        assert_eq!(exit_of(Some(ErrorCode::StorageFull)), Exit::Failed);
    }
}
