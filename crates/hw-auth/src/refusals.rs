//! The log of refused tokens: a sample of each kind, so that a stranger cannot write our log full.

use hw_types::Sample;

use crate::error::{AuthError, Refusal};

/// What was logged of each kind.
#[derive(Default)]
pub(crate) struct Refusals([Sample; Refusal::ALL.len()]);

impl Refusals {
    /// Logs a refusal, or counts it.
    pub(crate) fn log(&self, error: &AuthError) {
        metrics::counter!("headwater_tokens_refused_total", "code" => error.code()).increment(1);
        if let Some(left_out) = self.turn(error.refusal()) {
            tracing::info!(
                code = error.code(),
                detail = error.detail(),
                left_out = (left_out > 0).then_some(left_out),
                "token refused: {error}"
            );
        }
    }

    /// How many were left out before this one, if it is logged.
    fn turn(&self, refusal: Refusal) -> Option<u64> {
        let place = Refusal::ALL.iter().position(|kind| *kind == refusal)?;
        self.0[place].turn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_line_of_its_own() {
        let refusals = Refusals::default();
        assert_eq!(refusals.turn(Refusal::Invalid), Some(0));
        assert_eq!(refusals.turn(Refusal::Invalid), None);
        assert_eq!(refusals.turn(Refusal::Expired), Some(0));
    }
}
