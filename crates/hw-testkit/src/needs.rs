//! What a test needs and a machine may not have: the right to mount, a program.
//!
//! A test without it has nothing to try. On somebody's own machine it says so and passes; where every
//! test must run (`CI=true`) it fails, because a promise that was not tried is not kept.

/// Takes a value out of an `Option`; without one the test ends here. Who gives `None` has called
/// [`missing`], or what is missing stands behind the value.
///
/// ```
/// fn a_test() {
///     let program = hw_testkit::needs!(Some("psql"), "psql");
///     assert_eq!(program, "psql");
/// }
/// a_test();
/// ```
#[macro_export]
macro_rules! needs {
    ($value:expr) => {
        match $value {
            Some(value) => value,
            None => return,
        }
    };
    ($value:expr, $what:expr) => {
        match $value {
            Some(value) => value,
            None => return $crate::missing($what),
        }
    };
}

/// Says that a test has nothing to run on, for want of `what`.
///
/// - Panics: where `CI` is `true`: there a promise that was not tried counts as broken.
pub fn missing(what: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|value| value != "true"),
        "this test needs {what}, and every test must run here"
    );
    eprintln!("SKIPPED: this test needs {what}");
}
