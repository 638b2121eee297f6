//! What the operator's routes take, for the document. Times are Unix seconds, amounts decimal strings of USD.

use utoipa::{IntoParams, ToSchema};

/// A name.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The name.
    #[schema(max_length = 512)]
    pub name: String,
}

/// Declares what a route takes; what stands behind `?` may be left out.
macro_rules! taken {
    ($($(#[$about:meta])* $name:ident {
        $($(#[$need_about:meta])* $need:ident: $need_type:ty;)*
        ? { $($(#[$field_about:meta])* $field:ident: $type:ty;)* }
    })*) => {$(
        $(#[$about])*
        #[derive(ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$need_about])* pub $need: $need_type,)*
            $($(#[$field_about])* pub $field: Option<$type>,)*
        }
    )*};
}

taken! {
    /// A project to make.
    ProjectToMake {
        /// Its name.
        #[schema(max_length = 512)]
        name: String;
        ? {
            /// The customer; not needed where there is only one.
            organization_id: String;
            /// Tiers that it may use.
            allowed_tiers: Vec<String>;
            /// What `auto` means.
            default_tier: String;
            /// Models that exist for it.
            allowed_models: Vec<String>;
            /// `true`, `false` or `never`.
            store_responses: String;
            /// Requests a minute.
            requests_per_minute: u32;
            /// Tokens a minute.
            tokens_per_minute: u32;
            /// Requests at a time.
            concurrency: u32;
        }
    }
    /// What to change of a project; null gives up a setting.
    ProjectChange {
        ? {
            /// Its name.
            #[schema(max_length = 512)]
            name: String;
            /// Tiers that it may use.
            allowed_tiers: Vec<String>;
            /// What `auto` means.
            default_tier: String;
            /// Models that exist for it.
            allowed_models: Vec<String>;
            /// `true`, `false` or `never`.
            store_responses: String;
            /// Requests a minute.
            requests_per_minute: u32;
            /// Tokens a minute.
            tokens_per_minute: u32;
            /// Requests at a time.
            concurrency: u32;
        }
    }
    /// A key to make.
    KeyToMake {
        /// Its name.
        #[schema(max_length = 512)]
        name: String;
        ? {
            /// When it ends.
            expires_at: u64;
            /// After how long it ends.
            expires_in_seconds: u64;
            /// Rights: `model.request`, `model.read`, `data.read`, `data.write`,
            /// `capacity.write`; none: all.
            scopes: Vec<String>;
            /// Models that exist for it.
            allowed_models: Vec<String>;
            /// Addresses and networks from which it works.
            allowed_ips: Vec<String>;
            /// Requests a minute.
            requests_per_minute: u32;
            /// Tokens a minute.
            tokens_per_minute: u32;
            /// Requests at a time.
            concurrency: u32;
        }
    }
    /// What to change of a key; null gives up a setting.
    KeyChange {
        ? {
            /// Its name.
            #[schema(max_length = 512)]
            name: String;
            /// When it ends.
            expires_at: u64;
            /// After how long it ends.
            expires_in_seconds: u64;
            /// Rights; none: all.
            scopes: Vec<String>;
            /// Models that exist for it.
            allowed_models: Vec<String>;
            /// Addresses and networks from which it works.
            allowed_ips: Vec<String>;
            /// Requests a minute.
            requests_per_minute: u32;
            /// Tokens a minute.
            tokens_per_minute: u32;
            /// Requests at a time.
            concurrency: u32;
        }
    }
    /// A customer to make.
    OrganizationToMake {
        /// Its name.
        #[schema(max_length = 512)]
        name: String;
        ? {
            /// How far its balance may fall below zero; null: it pays later.
            credit_line_usd: String;
        }
    }
    /// What to change of a customer.
    OrganizationChange {
        ? {
            /// `active` or `disabled`.
            status: String;
            /// How far its balance may fall below zero; null: it pays later.
            credit_line_usd: String;
        }
    }
    /// Credit to give or take.
    CreditToGive {
        /// The amount, like `25` or `0.5`.
        amount_usd: String;
        ? {
            /// `grant` or `correction`.
            kind: String;
            /// When it ends.
            expires_at: u64;
            /// After how long it ends.
            expires_in_seconds: u64;
            /// What it is for.
            #[schema(max_length = 512)]
            note: String;
        }
    }
    /// A budget to make or change.
    BudgetToSet {
        /// `key`, `user`, `tag`, `project` or `organization`.
        scope: String;
        /// Whose it is.
        subject_id: String;
        /// The limit.
        limit_usd: String;
        ? {
            /// `hour`, `day`, `week`, `month` or `total`.
            period: String;
        }
    }
    /// A version to add to the rate card; prices are USD for a million tokens.
    PriceToAdd {
        /// The model.
        model: String;
        /// Of input that no cache had.
        uncached_input: String;
        /// Of input that a cache had.
        cached_input: String;
        /// Of output.
        output: String;
        ? {
            /// `default`, where left out.
            tier: String;
            /// RFC 3339; left out: from now on.
            effective_from: String;
        }
    }
}

/// Which part of a list to show.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items of a page.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// Id of the last item that is known.
    pub after: Option<String>,
    /// `asc` or `desc`.
    pub order: Option<String>,
}

/// Which lines of the audit log to show.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only those before this one.
    pub before: Option<String>,
    /// Only these events.
    pub event_types: Option<Vec<String>>,
    /// Only what these did.
    pub actor_ids: Option<Vec<String>>,
    /// Only in these projects.
    pub project_ids: Option<Vec<String>>,
    /// Only what was done to these.
    pub resource_ids: Option<Vec<String>>,
    /// Only after this second.
    #[param(rename = "effective_at[gt]")]
    pub gt: Option<u64>,
    /// Only from this second on.
    #[param(rename = "effective_at[gte]")]
    pub gte: Option<u64>,
    /// Only before this second.
    #[param(rename = "effective_at[lt]")]
    pub lt: Option<u64>,
    /// Only up to this second.
    #[param(rename = "effective_at[lte]")]
    pub lte: Option<u64>,
}
