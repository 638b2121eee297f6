//! What a key may be used for.

use std::fmt;
use std::str::FromStr;

/// A right of a key; each route of the public listener needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Generate, embed, rank: everything that a model computes.
    ModelRequest,
    /// List models.
    ModelRead,
    /// See stored answers, files and batches.
    DataRead,
    /// Make and delete files and batches, delete stored answers.
    DataWrite,
    /// Lease capacity, which is money for hours to come, and give leases up.
    CapacityWrite,
}

impl Permission {
    /// All of them.
    pub const ALL: [Permission; 5] = [
        Permission::ModelRequest,
        Permission::ModelRead,
        Permission::DataRead,
        Permission::DataWrite,
        Permission::CapacityWrite,
    ];

    /// The spelling in database and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Permission::ModelRequest => "model.request",
            Permission::ModelRead => "model.read",
            Permission::DataRead => "data.read",
            Permission::DataWrite => "data.write",
            Permission::CapacityWrite => "capacity.write",
        }
    }

    /// What a request needs. Files and batches are data; other posts are work for a model.
    pub fn needed(method: &str, path: &str) -> Self {
        let room = path.strip_prefix("/v1/").unwrap_or("").split('/').next().unwrap_or("");
        let reads = matches!(method, "GET" | "HEAD");
        match (room, reads) {
            ("models", true) => Permission::ModelRead,
            (_, true) => Permission::DataRead,
            // Takes nothing.
            ("capacity", false) if path == "/v1/capacity/quote" => Permission::ModelRequest,
            ("capacity", false) => Permission::CapacityWrite,
            ("files" | "uploads" | "batches", false) => Permission::DataWrite,
            _ if method == "DELETE" => Permission::DataWrite,
            _ => Permission::ModelRequest,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|permission| permission.as_str() == text);
        found
            .ok_or_else(|| format!("{text:?} is not one of {}", Self::ALL.map(Permission::as_str).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_and_their_rights() {
        for (method, path, needed) in [
            ("POST", "/v1/chat/completions", Permission::ModelRequest),
            ("POST", "/v1/responses", Permission::ModelRequest),
            ("POST", "/v1/capacity/quote", Permission::ModelRequest),
            ("GET", "/v1/models", Permission::ModelRead),
            ("GET", "/v1/models/a/b", Permission::ModelRead),
            ("GET", "/v1/responses/resp_1", Permission::DataRead),
            ("DELETE", "/v1/responses/resp_1", Permission::DataWrite),
            ("POST", "/v1/files", Permission::DataWrite),
            ("GET", "/v1/files/file_1/content", Permission::DataRead),
            ("POST", "/v1/batches", Permission::DataWrite),
            ("GET", "/v1/capacity/leases", Permission::DataRead),
            ("POST", "/v1/capacity/leases", Permission::CapacityWrite),
            ("DELETE", "/v1/capacity/leases/lease_1", Permission::CapacityWrite),
        ] {
            assert_eq!(Permission::needed(method, path), needed, "{method} {path}");
        }
    }
}
