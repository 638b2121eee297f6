//! What the operator's routes answer, for the document. Times are Unix seconds, amounts decimal strings of USD.

use utoipa::ToSchema;

/// Declares an object that is answered; every field is there; those behind `?` may be null.
macro_rules! answered {
    ($($(#[$about:meta])* $name:ident {
        $($(#[$field_about:meta])* $field:ident: $type:ty;)*
        $(? { $($(#[$null_about:meta])* $null:ident: $null_type:ty;)* })?
    })*) => {$(
        $(#[$about])*
        #[derive(ToSchema)]
        pub struct $name {
            $($(#[$field_about])* pub $field: $type,)*
            $($($(#[$null_about])* #[schema(required)] pub $null: Option<$null_type>,)*)?
        }
    )*};
}

answered! {
    /// An admin key.
    AdminKey {
        /// `ak_...`.
        id: String;
        /// `organization.admin_api_key`.
        object: String;
        /// Its name.
        name: String;
        /// How its value begins.
        redacted_value: String;
        /// When it was made.
        created_at: u64;
        /// Whose it is.
        owner: AdminOwner;
        ? {
            /// When it was used last.
            last_used_at: u64;
            /// Null: never.
            expires_at: u64;
        }
    }
    /// The owner of an admin key.
    AdminOwner {
        /// `user`.
        r#type: String;
        /// `organization.user`.
        object: String;
        /// The key's name.
        name: String;
        /// `owner`.
        role: String;
    }
    /// A project: it has keys, limits and rights.
    Project {
        /// `proj_...`.
        id: String;
        /// `organization.project`.
        object: String;
        /// Its name.
        name: String;
        /// When it was made.
        created_at: u64;
        /// `active` or `archived`.
        status: String;
        /// The customer.
        organization_id: String;
        /// Whether answers of Responses are kept.
        store_responses: String;
        ? {
            /// When it was archived.
            archived_at: u64;
            /// Null: as the server allows.
            allowed_tiers: Vec<String>;
            /// What `auto` means; null: as the server says.
            default_tier: String;
            /// Null: all.
            allowed_models: Vec<String>;
            /// Null: as the server says.
            requests_per_minute: u32;
            /// Null: as the server says.
            tokens_per_minute: u32;
            /// Null: as the server says.
            concurrency: u32;
        }
    }
    /// A customer's key.
    ProjectKey {
        /// `key_...`.
        id: String;
        /// `organization.project.api_key`.
        object: String;
        /// Its name.
        name: String;
        /// How its value begins.
        redacted_value: String;
        /// When it was made.
        created_at: u64;
        /// Its project.
        project_id: String;
        /// Rights; empty: all.
        scopes: Vec<String>;
        /// Addresses and networks from which it works; empty: all.
        allowed_ips: Vec<String>;
        /// Whose it is.
        owner: KeyOwner;
        /// `active`.
        owner_project_access: String;
        ? {
            /// When it was used last.
            last_used_at: u64;
            /// Null: never.
            expires_at: u64;
            /// Null: all of the project's.
            allowed_models: Vec<String>;
            /// Null: as the server says.
            requests_per_minute: u32;
            /// Null: as the server says.
            tokens_per_minute: u32;
            /// Null: as the server says.
            concurrency: u32;
        }
    }
    /// The owner of a customer's key.
    KeyOwner {
        /// `service_account`.
        r#type: String;
        /// The key by itself.
        service_account: ServiceAccount;
    }
    /// A key as its own owner.
    ServiceAccount {
        /// The key.
        id: String;
        /// Its name.
        name: String;
        /// When it was made.
        created_at: u64;
        /// `member`.
        role: String;
    }
    /// A customer.
    Organization {
        /// `org_...`.
        id: String;
        /// `organization`.
        object: String;
        /// Its name.
        name: String;
        /// When it was made.
        created_at: u64;
        /// `active` or `disabled`.
        status: String;
        ? {
            /// When it was disabled.
            disabled_at: u64;
            /// How far its balance may fall below zero; null: it pays later.
            credit_line_usd: String;
        }
    }
    /// What a customer has, owes, and may still spend.
    OrganizationBalance {
        /// `organization.balance`.
        object: String;
        /// The customer.
        organization_id: String;
        /// Credit less what was spent.
        balance_usd: String;
        /// All credit.
        credited_usd: String;
        /// All bills.
        spent_usd: String;
        /// What requests in flight hold.
        held_usd: String;
        /// Grants with something left.
        grants: Vec<Grant>;
        ? {
            /// Null: it pays later.
            credit_line_usd: String;
            /// Null: it pays later.
            available_usd: String;
        }
    }
    /// What is left of a grant.
    Grant {
        /// The ledger's row.
        ledger_sequence: u64;
        /// What is left.
        left_usd: String;
        ? {
            /// Null: never.
            expires_at: u64;
        }
    }
    /// Credit that was ordered.
    Credit {
        /// `cred_...`.
        id: String;
        /// `organization.credit`.
        object: String;
        /// The customer.
        organization_id: String;
        /// `grant` or `correction`.
        kind: String;
        /// The amount.
        amount_usd: String;
        /// What it is for.
        note: String;
        /// Who ordered it.
        actor_id: String;
        /// When.
        created_at: u64;
        /// `posted`, `waiting` or `refused`.
        status: String;
        ? {
            /// Null: never.
            expires_at: u64;
            /// Why the ledger refused it.
            refused: String;
            /// The ledger's row.
            ledger_sequence: u64;
        }
    }
    /// What somebody may spend in a period.
    SpendLimit {
        /// Scope, subject and period.
        id: String;
        /// `budget`.
        object: String;
        /// `key`, `user`, `tag`, `project` or `organisation`.
        scope: String;
        /// Whose it is.
        subject_id: String;
        /// `hour`, `day`, `week`, `month` or `total`.
        period: String;
        /// The limit.
        limit_usd: String;
    }
    /// A version of the rate card; prices are USD for a million tokens.
    Price {
        /// Its hash.
        id: String;
        /// `price`.
        object: String;
        /// The model.
        model: String;
        /// The tier.
        tier: String;
        /// RFC 3339.
        effective_from: String;
        /// `USD per 1M tokens`.
        unit: String;
        /// Of input that no cache had.
        uncached_input: String;
        /// Of input that a cache had.
        cached_input: String;
        /// Of output.
        output: String;
    }
    /// A line of the audit log. The field that `type` names says what was changed, to what, and from what.
    AuditLine {
        /// `audit_...`.
        id: String;
        /// What happened.
        r#type: String;
        /// When.
        effective_at: u64;
        /// Who did it: a key, or the command line.
        actor: AuditActor;
        ? {
            /// Where.
            project: ProjectId;
        }
    }
    /// A session of the command line.
    AuditSession {
        /// Who.
        user: AuditUser;
    }
    /// Whoever has the machine's command line.
    AuditUser {
        /// `cli`.
        id: String;
    }
    /// An admin key that did something.
    AuditKey {
        /// `key_...`.
        id: String;
        /// `service_account`.
        r#type: String;
    }
    /// A project by its id.
    ProjectId {
        /// `proj_...`.
        id: String;
    }
    /// What is gone.
    Deleted {
        /// Its id.
        id: String;
        /// What it was.
        object: String;
        /// `true`.
        deleted: bool;
    }
}

/// Who did something.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AuditActor {
    /// The command line.
    Session {
        /// Whose.
        session: AuditSession,
    },
    /// An admin key.
    ApiKey {
        /// Which.
        api_key: AuditKey,
    },
}

/// An admin key and its value.
#[derive(ToSchema)]
pub struct NewAdminKey {
    /// The key.
    #[serde(flatten)]
    pub key: AdminKey,
    /// Its value, which is told here and never again.
    pub value: String,
}

/// A customer's key and its value.
#[derive(ToSchema)]
pub struct NewProjectKey {
    /// The key.
    #[serde(flatten)]
    pub key: ProjectKey,
    /// Its value, which is told here and never again.
    pub value: String,
}
