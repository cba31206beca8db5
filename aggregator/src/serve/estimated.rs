//! Wires the estimator before the commit thread: a check goes there with what was said of its cost.

use std::sync::Arc;

use crate::api::{Acts, ApiState};
use crate::budgets::What;
use crate::estimator::{Estimator, Settings};

/// The same state, whose checks are estimated first.
pub(super) fn estimated(state: ApiState, settings: Option<Settings>) -> ApiState {
    let Some(settings) = settings else { return state };
    let estimator = Estimator::new(settings, state.clock.clone(), Arc::clone(&state.metrics));
    let (estimator, then) = (Arc::new(estimator), Arc::clone(&state.acts));
    let acts: Acts = Arc::new(move |mut act| {
        let (estimator, then) = (Arc::clone(&estimator), Arc::clone(&then));
        Box::pin(async move {
            if let What::Check(ask) = &mut act.what {
                ask.estimate = estimator.estimate(ask).await;
            }
            then(act).await
        })
    });
    ApiState { acts, ..state }
}
