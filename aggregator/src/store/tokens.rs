//! Bearer tokens: who may read, change, or send usage.
//!
//! A token is 32 random bytes; only its SHA-256 is stored, so a stolen store opens no door. It is shown once, by
//! [`add`]. A `node` token is bound to one (cluster, node) and is good for ingest alone.

use sha2::{Digest, Sha256};
use tonnage_proto::limits::NAME_BYTES_MAX;

use super::StoreError;
use crate::model::NodeName;
use crate::store::sql::{self, Connection, OptionalExtension, Row, params};

pub use tonnage_proto::token::PREFIX;
/// Tokens in one ledger.
pub const TOKENS_MAX: i64 = 100_000;

/// Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Reader,
    /// Checks and holds budgets, for whatever lets work in.
    Gate,
    Operator,
    Admin,
}

impl Role {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Reader, "reader"),
        (Self::Gate, "gate"),
        (Self::Operator, "operator"),
        (Self::Admin, "admin"),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(role, _)| *role == self).map_or("reader", |(_, name)| name)
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(role, _)| role)
    }
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    Role(Role),
    Node(NodeName),
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    pub grant: Grant,
    /// Nanoseconds since the Unix epoch.
    pub created_ns: i64,
}

/// A token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{field} {value:?}: use 1 to {NAME_BYTES_MAX} visible ASCII characters")]
    Name { field: &'static str, value: String },
    #[error("token {name:?}: there is one of this name already; remove it first, or use another name")]
    Taken { name: String },
    #[error("token: the ledger has {TOKENS_MAX} already; remove some")]
    TooMany,
    #[error("token: no random numbers")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sql::Error> for TokenError {
    fn from(error: sql::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What is stored of a token.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Makes a token and returns it: `tng_` and 64 hex digits. It cannot be read again.
///
/// # Errors
/// If a name is not one or is taken, there are too many, or the store fails.
pub fn add(connection: &Connection, name: &str, grant: &Grant, now_ns: i64) -> Result<String, TokenError> {
    check("token name", name)?;
    let (role, cluster, node) = match grant {
        Grant::Role(role) => (role.name(), "", ""),
        Grant::Node(bound) => {
            check("cluster", &bound.cluster)?;
            check("node", &bound.node)?;
            ("node", bound.cluster.as_str(), bound.node.as_str())
        }
    };
    let count: i64 = connection.query_row("SELECT COUNT(*) FROM token", [], |row| row.get(0))?;
    if count >= TOKENS_MAX {
        return Err(TokenError::TooMany);
    }
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(TokenError::Random)?;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("{PREFIX}{digits}");
    let insert = "INSERT INTO token (name, role, cluster, node, sha256, created_ns)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let result = connection.execute(insert, params![name, role, cluster, node, &hash(&token)[..], now_ns]);
    match result {
        Ok(_) => Ok(token),
        Err(error) if error.is_conflict() => Err(TokenError::Taken { name: name.to_owned() }),
        Err(error) => Err(error.into()),
    }
}

/// All tokens, by name.
///
/// # Errors
/// If the store fails.
pub fn list(connection: &Connection) -> Result<Vec<Token>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT name, role, cluster, node, created_ns FROM token ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok(token(row)))?;
    rows.map(|row| row?).collect()
}

/// Removes the token of this name; false if there is none. It stops working within a minute.
///
/// # Errors
/// If the store fails.
pub fn remove(connection: &Connection, name: &str) -> Result<bool, StoreError> {
    Ok(connection.execute("DELETE FROM token WHERE name = ?1", [name])? > 0)
}

/// The token with this [`hash`].
///
/// # Errors
/// If the store fails.
pub fn find(connection: &Connection, sha256: &[u8; 32]) -> Result<Option<Token>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT name, role, cluster, node, created_ns FROM token WHERE sha256 = ?1")?;
    statement.query_row([&sha256[..]], |row| Ok(token(row))).optional()?.transpose()
}

fn token(row: &Row<'_>) -> Result<Token, StoreError> {
    let (name, role): (String, String) = (row.get(0)?, row.get(1)?);
    let grant = if role == "node" {
        Grant::Node(NodeName { cluster: row.get(2)?, node: row.get(3)? })
    } else {
        let detail = || format!("token {name:?} has role {role:?}");
        let known = Role::from_name(&role);
        Grant::Role(known.ok_or_else(|| StoreError::Damaged { what: "token", detail: detail() })?)
    };
    Ok(Token { name, grant, created_ns: row.get(4)? })
}

fn check(field: &'static str, value: &str) -> Result<(), TokenError> {
    let good = !value.is_empty()
        && value.len() <= NAME_BYTES_MAX
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    if good {
        return Ok(());
    }
    Err(TokenError::Name { field, value: value.chars().take(80).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn ledger() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Store::open(folder.path()).unwrap().writer().unwrap();
        (folder, connection)
    }

    #[test]
    fn a_token_is_found_by_its_hash_until_it_is_removed() {
        let (_folder, connection) = ledger();
        let bound = Grant::Node(NodeName { cluster: "c".into(), node: "n1".into() });
        let token = add(&connection, "n1", &bound, 7).unwrap();
        assert!(token.starts_with(PREFIX) && token.len() == 68, "{}", token.len());
        let found = find(&connection, &hash(&token)).unwrap();
        assert_eq!(found, Some(Token { name: "n1".into(), grant: bound, created_ns: 7 }));
        assert!(remove(&connection, "n1").unwrap());
        assert!(!remove(&connection, "n1").unwrap());
        assert_eq!(find(&connection, &hash(&token)).unwrap(), None);
    }

    #[test]
    fn the_store_holds_no_token() {
        let (_folder, connection) = ledger();
        let token = add(&connection, "ops", &Grant::Role(Role::Operator), 0).unwrap();
        let stored: Vec<u8> = connection.query_row("SELECT sha256 FROM token", [], |row| row.get(0)).unwrap();
        assert_eq!(stored, hash(&token));
        assert_eq!(list(&connection).unwrap()[0].grant, Grant::Role(Role::Operator));
    }

    #[test]
    fn a_name_is_used_once_and_is_visible_text() {
        let (_folder, connection) = ledger();
        let reader = Grant::Role(Role::Reader);
        add(&connection, "a", &reader, 0).unwrap();
        assert!(matches!(add(&connection, "a", &reader, 0), Err(TokenError::Taken { .. })));
        let long = "x".repeat(257);
        for name in ["", "two words", "new\nline", &long] {
            assert!(matches!(add(&connection, name, &reader, 0), Err(TokenError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn roles_are_ordered_and_keep_their_names() {
        assert!(Role::Reader < Role::Gate && Role::Gate < Role::Operator && Role::Operator < Role::Admin);
        for (role, name) in Role::ALL {
            assert_eq!((Role::from_name(name), role.name()), (Some(role), name));
        }
        assert_eq!(Role::from_name("node"), None);
    }
}
