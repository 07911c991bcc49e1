//! Names and literals as SQL text, for the statements that cannot take parameters (COPY).

/// A table on one of the servers, and how to reach it.
#[derive(Clone)]
pub struct TableAddress {
    pub dsn: String,
    pub schema: String,
    pub table: String,
}

impl TableAddress {
    /// The quoted, qualified name.
    pub fn sql(&self) -> String {
        qualified(&self.schema, &self.table)
    }
}

pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

pub fn column_list(columns: &[String]) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| quote(column)).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_identifier_whatever_it_contains() {
        assert_eq!(quote("events_dedicated-a"), "\"events_dedicated-a\"");
        assert_eq!(quote("a.b\"; drop"), "\"a.b\"\"; drop\"");
        assert_eq!(qualified("s", "t"), "\"s\".\"t\"");
    }
}
