//! What becomes of a hold, as the journal has it: `verify` makes holds from these again, so that none may change its meaning.

use serde::{Deserialize, Serialize};

use super::{Ask, Code, Found, State, Subject};

/// What became of a hold, as the journal has it. `by` is who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It was asked for, and is there, or was refused.
    Checked {
        account: i64,
        ask: Box<Ask>,
        cost_nanos: Option<i64>,
        amount_nanos: i64,
        available_nanos: Option<i64>,
        refusal: Option<(Code, String)>,
        #[serde(default, skip_serializing_if = "Found::is_nothing")]
        found: Found,
        by: String,
    },
    Bound {
        subject: Subject,
        by: String,
    },
    /// It is also of these jobs, tasks of its array; also of what they were charged before.
    Tasks {
        jobs: Vec<String>,
        by: String,
    },
    Renewed {
        until_ns: i64,
        by: String,
    },
    /// A hold was taken out of it; what is left.
    Drawn {
        amount_nanos: i64,
        by: String,
    },
    /// Another hold for more of its job was joined to it; what it holds now.
    Joined {
        amount_nanos: i64,
        by: String,
    },
    /// With what its job had been charged by then, and whether its account is suspended for that.
    Ended {
        state: State,
        charged_nanos: i64,
        suspends: bool,
        by: String,
    },
}
