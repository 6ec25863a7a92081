//! The scheduler beside the model, by chance.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::program::{Operation, run};

/// Operations of one case, on average.
const OPERATIONS: usize = 200;
/// Operations in all, unless the environment asks for more.
const OPERATIONS_ALL: usize = 200_000;
/// Names how many operations to run instead.
const OPERATIONS_VARIABLE: &str = "MILLSTREAM_SCHEDULER_OPS";

#[test]
fn the_scheduler_does_what_a_list_of_records_would() {
    let all = std::env::var(OPERATIONS_VARIABLE).ok();
    let all = all.map_or(OPERATIONS_ALL, |all| all.parse().unwrap());
    let cases = u32::try_from(all / OPERATIONS).unwrap();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let case = (
        any::<(u16, u16, u16)>(),
        vec(any::<Operation>(), 1..=2 * OPERATIONS),
    );
    let outcome = runner.run(&case, |(picks, operations)| {
        run(picks, &operations);
        Ok::<(), TestCaseError>(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
