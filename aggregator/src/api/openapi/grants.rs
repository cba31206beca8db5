//! Parameters of what is about grants.

use serde_json::{Value, json};

use super::{TEXT, VALUE_BYTES_MAX};
use crate::api::budgets::asba::timeline::COMPAT;
use crate::api::budgets::grants::report::{Format, Kind};
use crate::budgets::grant::Standing;

/// What a parameter may be, and what it means; `None` if it has another meaning, or is not of grants.
pub(super) fn parameter(name: &str, path: &str) -> Option<(Value, &'static str)> {
    let text = || json!({ "type": "string", "pattern": TEXT, "maxLength": VALUE_BYTES_MAX });
    let one_of = |values: &[&str]| json!({ "type": "string", "enum": values });
    let is_report = path.ends_with("/report");
    Some(match name {
        "number" => (text(), "Of a grant, as the agency has it"),
        "dry_run" => (json!({ "type": "boolean" }), "Changes nothing, and answers as if it had"),
        "compat" => (
            one_of(&[COMPAT]),
            "Types of the client, where its server's document has others (docs/grants.md)",
        ),
        "status" if path.ends_with("/grants") => {
            (one_of(&Standing::NAMES), "Only grants that stand so; all unless told otherwise")
        }
        "format" if is_report => (one_of(&Format::ALL.map(|(_, name)| name)), "json unless told otherwise"),
        "report_type" => (
            one_of(&Kind::ALL.map(|(_, name)| name)),
            "Which parts it has; financial unless told otherwise (docs/grants.md)",
        ),
        "budget_period" => {
            (json!({ "type": "integer" }), "By its number; instead of start_date and end_date")
        }
        "include_details" => {
            (json!({ "type": "boolean" }), "By user, month and the like; true unless told otherwise")
        }
        "start_date" | "end_date" if is_report => {
            (text(), "A day of UTC; the end is the first day that is not in it. All of the grant unless told")
        }
        _ => return None,
    })
}
