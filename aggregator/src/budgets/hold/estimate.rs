//! What somebody outside says of a check's cost.

use serde::{Deserialize, Serialize};

/// Where the cost of a check comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// Nobody was asked: by price, GPUs and time limit.
    #[default]
    Price,
    /// An estimator's.
    Outside { cost_nanos: i64 },
    /// An estimator was to be asked and said nothing.
    Fallback,
}

impl Estimate {
    pub(super) fn is_price(&self) -> bool {
        *self == Self::Price
    }

    /// Is that the cost of a check? More than the work can cost is not believed.
    #[must_use]
    pub fn is_outside(&self, cost_nanos: Option<i64>) -> bool {
        matches!(self, Self::Outside { cost_nanos: said } if cost_nanos == Some(*said))
    }

    /// In a word, of a check whose cost is this.
    #[must_use]
    pub fn name(&self, cost_nanos: Option<i64>) -> &'static str {
        match self {
            Self::Price => "price",
            Self::Outside { .. } if self.is_outside(cost_nanos) => "estimator",
            Self::Outside { .. } | Self::Fallback => "fallback",
        }
    }
}
