//! The filter language, `namespace:"a","b"+(node<~:"gpu-"|user!:"eve")`: OpenCost's second version of it. Pure.
//!
//! A comparison is a field, an operator and one value or more, quoted, with commas between. `:` is equal, `~:` contains,
//! `<~:` begins with, `~>:` ends with; any of the values will do. A `!` before one of these turns it round: then none of the values
//! may. `+` is and, `|` is or; one level has one of the two, and parentheses make another level. `\"` and `\\` stand for
//! `"` and `\` in a value. Which fields there are is the caller's to say.

/// Longest filter in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;
/// Parentheses within each other.
const DEPTH_MAX: usize = 16;
/// In one filter, as it is asked for each row.
const COMPARISONS_MAX: usize = 64;
/// In one filter, over all comparisons.
const VALUES_MAX: usize = 256;
/// Characters of what was found that an error shows.
const SHOWN_CHARS: usize = 20;

/// What lets rows through, over fields of type `F`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr<F> {
    All(Vec<Self>),
    Any(Vec<Self>),
    Is(Comparison<F>),
}

/// One field held against values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison<F> {
    pub field: F,
    pub test: Test,
    pub negated: bool,
    /// At least one.
    pub values: Vec<String>,
}

/// What a value has to be of the field's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    Equal,
    Contained,
    Prefix,
    Suffix,
}

/// Each operator without its `!`; the longer ones first.
const OPERATORS: [(&str, Test); 4] =
    [("<~:", Test::Prefix), ("~>:", Test::Suffix), ("~:", Test::Contained), (":", Test::Equal)];

/// Where a filter cannot be read, and what would be right there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {reason}")]
pub struct FilterError {
    /// Counted from 1.
    pub at: usize,
    pub reason: String,
}

impl<F> Expr<F> {
    /// Does a row pass whose values `value` tells?
    ///
    /// # Errors
    /// The first of `value`'s.
    pub fn passes<E>(&self, value: &mut impl FnMut(&F) -> Result<String, E>) -> Result<bool, E> {
        let (inner, until) = match self {
            Self::Is(comparison) => return Ok(comparison.holds(&value(&comparison.field)?)),
            Self::All(inner) => (inner, false),
            Self::Any(inner) => (inner, true),
        };
        for expr in inner {
            if expr.passes(value)? == until {
                return Ok(until);
            }
        }
        Ok(!until)
    }

    /// Is one of the fields like this?
    pub fn names(&self, like: &impl Fn(&F) -> bool) -> bool {
        match self {
            Self::Is(comparison) => like(&comparison.field),
            Self::All(inner) | Self::Any(inner) => inner.iter().any(|expr| expr.names(like)),
        }
    }
}

impl<F> Comparison<F> {
    fn holds(&self, found: &str) -> bool {
        let any = self.values.iter().any(|value| match self.test {
            Test::Equal => found == value,
            Test::Contained => found.contains(value.as_str()),
            Test::Prefix => found.starts_with(value.as_str()),
            Test::Suffix => found.ends_with(value.as_str()),
        });
        any != self.negated
    }
}

/// Reads `text`. `field` gives the field of a name and of the key in brackets behind it, or says what would be right.
///
/// # Errors
/// Where the text is no filter, or one beyond the limits.
pub fn parse<F>(
    text: &str,
    field: impl Fn(&str, Option<&str>) -> Result<F, String>,
) -> Result<Expr<F>, FilterError> {
    let mut parser = Parser { text, at: 0, field, comparisons: 0, values: 0 };
    if text.len() > FILTER_BYTES_MAX {
        return Err(parser.error(0, format!("has {} bytes; use at most {FILTER_BYTES_MAX}", text.len())));
    }
    let expr = parser.level(0)?;
    match parser.peek() {
        None => Ok(expr),
        Some(')') => Err(parser.error(parser.at, "found a ) that nothing opened")),
        Some(_) => Err(parser.expected("+ (in a URL written %2B), | or the end")),
    }
}

struct Parser<'a, R> {
    text: &'a str,
    at: usize,
    field: R,
    comparisons: usize,
    values: usize,
}

impl<F, R: Fn(&str, Option<&str>) -> Result<F, String>> Parser<'_, R> {
    fn level(&mut self, depth: usize) -> Result<Expr<F>, FilterError> {
        if depth > DEPTH_MAX {
            return Err(self.error(self.at, format!("goes more than {DEPTH_MAX} parentheses deep")));
        }
        let first = self.element(depth)?;
        let Some(operator @ ('+' | '|')) = self.peek() else { return Ok(first) };
        let mut inner = vec![first];
        while let Some(next @ ('+' | '|')) = self.peek() {
            if next != operator {
                let reason = format!(
                    "found {next} in a level of {operator}; put parentheses to say which binds closer"
                );
                return Err(self.error(self.at, reason));
            }
            self.at += 1;
            inner.push(self.element(depth)?);
        }
        Ok(if operator == '+' { Expr::All(inner) } else { Expr::Any(inner) })
    }

    fn element(&mut self, depth: usize) -> Result<Expr<F>, FilterError> {
        if self.peek() != Some('(') {
            return Ok(Expr::Is(self.comparison()?));
        }
        self.at += 1;
        let inner = self.level(depth + 1)?;
        if self.peek() != Some(')') {
            return Err(self.expected("+ (in a URL written %2B), | or )"));
        }
        self.at += 1;
        Ok(inner)
    }

    fn comparison(&mut self) -> Result<Comparison<F>, FilterError> {
        self.peek();
        let start = self.at;
        self.comparisons += 1;
        if self.comparisons > COMPARISONS_MAX {
            return Err(self
                .error(start, format!("is comparison {}; use at most {COMPARISONS_MAX}", self.comparisons)));
        }
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() {
            return Err(self.expected("a field, such as namespace, or ("));
        }
        let key = if self.peek() == Some('[') { Some(self.key()?) } else { None };
        let field = (self.field)(&name, key.as_deref()).map_err(|reason| self.error(start, reason))?;
        let (test, negated) = self.operator()?;
        let mut values = vec![self.value()?];
        while self.peek() == Some(',') {
            self.at += 1;
            values.push(self.value()?);
        }
        Ok(Comparison { field, test, negated, values })
    }

    fn key(&mut self) -> Result<String, FilterError> {
        self.at += 1;
        let key = self.take_while(|c| c != ']' && c != '[');
        if key.is_empty() || self.peek() != Some(']') {
            return Err(self.expected("a label's name and ]"));
        }
        self.at += 1;
        Ok(key)
    }

    fn operator(&mut self) -> Result<(Test, bool), FilterError> {
        let negated = self.peek() == Some('!');
        let rest = self.rest().get(usize::from(negated)..).unwrap_or_default();
        let found = OPERATORS.into_iter().find(|(operator, _)| rest.starts_with(operator));
        let (operator, test) =
            found.ok_or_else(|| self.expected("an operator: one of : !: ~: !~: <~: !<~: ~>: !~>:"))?;
        self.at += usize::from(negated) + operator.len();
        Ok((test, negated))
    }

    fn value(&mut self) -> Result<String, FilterError> {
        if self.peek() != Some('"') {
            return Err(self.expected("a value in double quotes"));
        }
        let start = self.at;
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(self.error(start, format!("is value {}; use at most {VALUES_MAX}", self.values)));
        }
        self.at += 1;
        let mut value = String::new();
        loop {
            let mut chars = self.rest().chars();
            let taken = match (chars.next(), chars.next()) {
                (Some('"'), _) => break,
                (Some('\\'), Some(escaped @ ('"' | '\\'))) => (escaped, 2),
                (Some('\\'), _) => return Err(self.expected("\\\" or \\\\")),
                (Some(c), _) => (c, c.len_utf8()),
                (None, _) => return Err(self.error(start, "begins a value that no double quote ends")),
            };
            value.push(taken.0);
            self.at += taken.1;
        }
        self.at += 1;
        Ok(value)
    }

    fn take_while(&mut self, like: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !like(c)).unwrap_or(rest.len())];
        let taken = taken.to_owned();
        self.at += taken.len();
        taken
    }

    /// The next character behind blanks.
    fn peek(&mut self) -> Option<char> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, what: &str) -> FilterError {
        let rest = self.rest();
        let found = if rest.is_empty() {
            "the end".to_owned()
        } else {
            format!("{:?}", rest.chars().take(SHOWN_CHARS).collect::<String>())
        };
        self.error(self.at, format!("found {found}, expected {what}"))
    }

    fn error(&self, at: usize, reason: impl Into<String>) -> FilterError {
        let before = self.text.get(..at).unwrap_or_default();
        FilterError { at: before.chars().count() + 1, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, key: Option<&str>) -> Result<String, String> {
        match (name, key) {
            ("nothing", _) => Err("\"nothing\" is not a field".to_owned()),
            (name, None) => Ok(name.to_owned()),
            (name, Some(key)) => Ok(format!("{name}/{key}")),
        }
    }

    fn passes(filter: &str, row: &[(&str, &str)]) -> bool {
        let expr = parse(filter, field).unwrap_or_else(|error| panic!("{filter}: {error}"));
        let mut value = |field: &String| {
            Ok::<_, ()>(row.iter().find(|(name, _)| name == field).map_or("", |(_, value)| value).to_owned())
        };
        expr.passes(&mut value).unwrap()
    }

    #[test]
    fn each_operator_and_its_opposite_do_what_they_say() {
        let row = [("node", "gpu-01-a")];
        for (positive, holds) in [
            (":\"gpu-01-a\"", true),
            (":\"gpu-01\"", false),
            (":\"x\",\"gpu-01-a\"", true),
            ("~:\"01\"", true),
            ("~:\"02\",\"03\"", false),
            ("<~:\"gpu-\"", true),
            ("<~:\"a\"", false),
            ("~>:\"-a\"", true),
            ("~>:\"gpu\"", false),
            (":\"GPU-01-A\"", false),
        ] {
            assert_eq!(passes(&format!("node{positive}"), &row), holds, "{positive}");
            assert_eq!(passes(&format!("node!{positive}"), &row), !holds, "!{positive}");
        }
    }

    #[test]
    fn and_or_parentheses_and_blanks_bind_as_they_are_written() {
        let row = [("a", "1"), ("b", "2"), ("label/app.kubernetes.io/name", "x")];
        for (filter, holds) in [
            ("a:\"1\"+b:\"2\"", true),
            ("a:\"1\"+b:\"3\"", false),
            ("a:\"0\"|b:\"2\"", true),
            ("a:\"0\"|(a:\"1\"+b:\"3\")", false),
            ("(a:\"0\"|a:\"1\")+(b:\"2\")", true),
            (" ( a : \"1\" , \"7\" + b !: \"3\" ) ", true),
            ("label[app.kubernetes.io/name]:\"x\"", true),
        ] {
            assert_eq!(passes(filter, &row), holds, "{filter}");
        }
        assert!(passes(r#"a:"say \"\\\"""#, &[("a", r#"say "\""#)]));
        assert!(passes("a:\"+|),\"", &[("a", "+|),")]), "a value may hold anything");
    }

    #[test]
    fn an_error_names_its_place_and_what_would_be_right() {
        let deep = format!("{}a:\"1\"{}", "(".repeat(17), ")".repeat(17));
        let many = vec!["a:\"1\""; 65].join("+");
        let values = format!("a:{}", vec!["\"1\""; 257].join(","));
        let long = format!("a:\"{}\"", "x".repeat(FILTER_BYTES_MAX));
        for (filter, at, said) in [
            ("", 1, "found the end, expected a field"),
            ("a", 2, "found the end, expected an operator"),
            ("é:\"1\"", 1, "expected a field"),
            ("a=\"1\"", 2, "found \"=\\\"1\\\"\", expected an operator"),
            ("a:1", 3, "expected a value in double quotes"),
            ("a:\"1", 3, "no double quote ends"),
            ("a:\"é\" b:\"1\"", 7, "expected + (in a URL written %2B), | or the end"),
            ("a:\"1\"+", 7, "found the end, expected a field"),
            ("a:\"1\"+b:\"2\"|c:\"3\"", 12, "found | in a level of +"),
            ("(a:\"1\"", 7, "expected + (in a URL written %2B), | or )"),
            ("a:\"1\")", 6, "a ) that nothing opened"),
            ("a:\"1\",", 7, "expected a value"),
            ("a[:\"1\"", 7, "expected a label's name and ]"),
            ("a[]:\"1\"", 3, "expected a label's name and ]"),
            ("a:\"\\n\"", 4, "expected \\\" or \\\\"),
            ("a:\"1\"+nothing:\"2\"", 7, "\"nothing\" is not a field"),
            (deep.as_str(), 18, "more than 16 parentheses deep"),
            (many.as_str(), 385, "is comparison 65; use at most 64"),
            (values.as_str(), 1027, "is value 257; use at most 256"),
            (long.as_str(), 1, "has 4100 bytes; use at most 4096"),
        ] {
            let error = parse(filter, field).unwrap_err();
            assert_eq!(error.at, at, "{filter}: {error}");
            assert!(error.reason.contains(said), "{filter}: {error}");
        }
    }

    #[test]
    fn fields_that_a_filter_names_are_found_at_any_depth() {
        let expr = parse("a:\"1\"+(b:\"2\"|(c:\"3\"))", field).unwrap();
        assert!(expr.names(&|name| name == "c") && !expr.names(&|name| name == "d"));
    }
}
