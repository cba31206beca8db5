//! What the submit plugin writes into a job's AdminComment, which users cannot: how it was let in, and what was asked. Pure.
//!
//! ```text
//! tonnage:held:5f0c...:submit;token=5f0c...;user=ada;account=physics;...   whatever else stands there
//! ```
//!
//! Slurm keeps it with the job, through requeues and its own restarts, so that whoever sweeps learns from Slurm alone what was let in; it
//! reaches every task of an array. The ask is the gate's own line with `;` for spaces. It is missing where it was too long.

use super::request::{AskError, Request, is_token};

const BEGIN: &str = "tonnage:";

/// How a job was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// By a hold, that has the token in its details.
    Held,
    /// Without one, since nobody could be asked.
    Open,
    /// For money of this escrow, and so much of it.
    Escrow { transaction: String, amount: String },
}

/// A job's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub kind: Kind,
    pub token: String,
    ask: String,
}

impl Mark {
    /// What stands in a comment; `None` if it has no mark.
    #[must_use]
    pub fn find(comment: &str) -> Option<Self> {
        let word = comment.split_whitespace().find_map(|word| word.strip_prefix(BEGIN))?;
        let (kind, rest) = word.split_once(':')?;
        let (token, ask) = rest.split_once(':').unwrap_or((rest, ""));
        let kind = match kind {
            "held" => Kind::Held,
            "open" => Kind::Open,
            other => {
                let (transaction, amount) = other.strip_prefix("escrow=")?.split_once('=')?;
                Kind::Escrow { transaction: transaction.to_owned(), amount: amount.to_owned() }
            }
        };
        is_token(token).then(|| Self { kind, token: token.to_owned(), ask: ask.to_owned() })
    }

    /// What was asked.
    ///
    /// # Errors
    /// If it is not there whole.
    pub fn request(&self) -> Result<Request, AskError> {
        Request::parse(&self.ask.replace(';', " "))
    }
}

/// How a mark begins, which the plugin makes whole.
#[must_use]
pub fn word(kind: &Kind) -> String {
    match kind {
        Kind::Held => "held".to_owned(),
        Kind::Open => "open".to_owned(),
        Kind::Escrow { transaction, amount } => format!("escrow={transaction}={amount}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_mark_is_found_among_other_words_with_what_was_asked() {
        let ask = format!("submit;token={TOKEN};account=a%20b;tres_per_job=gres:gpu:2");
        let escrow = Kind::Escrow { transaction: "txn_1".into(), amount: "1.5".into() };
        for kind in [Kind::Held, Kind::Open, escrow] {
            let comment = format!("site=x tonnage:{}:{TOKEN}:{ask} more", word(&kind));
            let mark = Mark::find(&comment).unwrap();
            assert_eq!((&mark.kind, mark.token.as_str()), (&kind, TOKEN));
            let request = mark.request().unwrap();
            assert_eq!(
                (request.ask.text("account"), request.ask.text("tres_per_job")),
                ("a b", "gres:gpu:2")
            );
        }
    }

    #[test]
    fn what_is_no_mark_is_none_and_a_mark_may_have_lost_its_ask() {
        for comment in [
            "",
            "(null)",
            "tonnage",
            "tonnage:held",
            "tonnage:held:xyz",
            "tonnage:paid:0123456789abcdef",
            "tonnage:escrow=1:0123456789abcdef",
        ] {
            assert_eq!(Mark::find(comment), None, "{comment}");
        }
        assert!(Mark::find(&format!("tonnage:held:{TOKEN}")).unwrap().request().is_err());
    }
}
