//! The types of the library, in Luau's own words: what editors know of `aether`.
//!
//! What each function takes and gives stands with it in the registry; here are the types that several of them name.

/// A type that others name: its fields, each with its type.
pub struct Shape {
    pub name: &'static str,
    pub fields: &'static [(&'static str, &'static str)],
}

/// Types that are short for another.
pub const ALIASES: &[(&str, &str)] = &[
    ("Data", "string | buffer | Secret"),
    ("Key", "string | number | { string | number }"),
    ("Vote", "Verdict | boolean | nil"),
    ("Duration", "string | number"),
    ("Channel", "{ [string]: string }"),
    ("Who", "string | { [string]: any } | nil"),
];

pub const SHAPES: &[Shape] = &[
    Shape { name: "Verdict", fields: &[("__verdict", "true")] },
    Shape { name: "Secret", fields: &[("__secret", "true")] },
    Shape {
        name: "Pattern",
        fields: &[("matches", "(self: Pattern, name: string) -> boolean"), ("example", "(self: Pattern) -> string?")],
    },
    Shape {
        name: "Session",
        fields: &[
            ("id", "string"),
            ("user", "string?"),
            ("tenant", "string?"),
            ("attrs", "{ [string]: any }"),
            ("view", "string?"),
            ("ip", "string?"),
            ("dialect", "string"),
            ("transport", "string"),
            ("connected_ms", "number"),
        ],
    },
    Shape {
        name: "Message",
        fields: &[
            ("size", "number"),
            ("event", "string?"),
            ("sender", "string?"),
            ("id", "string?"),
            ("media", "string"),
            ("get", "(self: Message, path: string) -> any"),
            ("json", "(self: Message) -> any"),
            ("text", "(self: Message) -> string"),
            ("buffer", "(self: Message) -> buffer"),
            ("with_json", "(self: Message, value: any) -> Message"),
            ("with_text", "(self: Message, text: string) -> Message"),
            ("with_meta", "(self: Message, meta: { [string]: any }) -> Message"),
        ],
    },
    Shape {
        name: "HttpOptions",
        fields: &[
            ("method", "string?"),
            ("headers", "{ [string]: string }?"),
            ("body", "Data?"),
            ("json", "any"),
            ("timeout", "Duration?"),
            ("max_body", "number?"),
            ("follow", "boolean?"),
        ],
    },
    Shape {
        name: "HttpAnswer",
        fields: &[
            ("status", "number"),
            ("headers", "{ [string]: string }"),
            ("body", "string"),
            ("json", "(self: HttpAnswer) -> any"),
        ],
    },
    Shape {
        name: "Request",
        fields: &[
            ("transport", "string"),
            ("method", "string"),
            ("path", "string"),
            ("query", "{ [string]: string }"),
            ("ip", "string?"),
            ("bearer", "(self: Request) -> string?"),
            ("header", "(self: Request, name: string) -> string?"),
            ("cookie", "(self: Request, name: string) -> string?"),
        ],
    },
    Shape {
        name: "Visit",
        fields: &[
            ("method", "string"),
            ("path", "string"),
            ("params", "{ [string]: string }"),
            ("query", "{ [string]: string }"),
            ("headers", "{ [string]: string }"),
            ("ip", "string?"),
            ("user", "string?"),
            ("tenant", "string?"),
            ("attrs", "{ [string]: any }"),
            ("size", "number"),
            ("header", "(self: Visit, name: string) -> string?"),
            ("text", "(self: Visit) -> string"),
            ("buffer", "(self: Visit) -> buffer"),
            ("json", "(self: Visit) -> any"),
        ],
    },
    Shape {
        name: "Farewell",
        fields: &[("cause", "string"), ("code", "number?"), ("reason", "string"), ("expected", "boolean")],
    },
    Shape { name: "Verifier", fields: &[("verify", "(self: Verifier, token: string) -> (any, string?)")] },
    Shape { name: "Limiter", fields: &[("take", "(self: Limiter, key: Key, n: number?) -> (boolean, number?)")] },
    Shape {
        name: "Shared",
        fields: &[
            ("get", "(self: Shared, key: Key) -> any"),
            ("set", "(self: Shared, key: Key, value: any, options: PutOptions?) -> boolean"),
            ("incr", "(self: Shared, key: Key, by: number?, options: PutOptions?) -> number"),
            ("cas", "(self: Shared, key: Key, old: any, new: any, options: PutOptions?) -> boolean"),
            ("push", "(self: Shared, key: Key, value: any, options: PutOptions?) -> number"),
            ("pop", "(self: Shared, key: Key) -> any"),
            ("keys", "(self: Shared, prefix: Key?, options: { limit: number? }?) -> { any }"),
        ],
    },
    Shape {
        name: "Store",
        fields: &[
            ("get", "(self: Store, key: Key) -> any"),
            ("set", "(self: Store, key: Key, value: any, options: PutOptions?) -> boolean"),
            ("delete", "(self: Store, key: Key) -> boolean"),
            ("incr", "(self: Store, key: Key, by: number?, options: PutOptions?) -> number"),
            ("cas", "(self: Store, key: Key, old: any, new: any, options: PutOptions?) -> boolean"),
            ("update", "(self: Store, key: Key, change: (old: any) -> any, options: PutOptions?) -> any"),
            ("scan", "(self: Store, prefix: Key?, options: { limit: number?, after: Key? }?) -> { any }"),
            ("sync", "(self: Store) -> ()"),
        ],
    },
    Shape { name: "Counter", fields: &[("inc", "(self: Counter, n: number?, labels: { [string]: string }?) -> ()")] },
    Shape {
        name: "Gauge",
        fields: &[
            ("set", "(self: Gauge, n: number, labels: { [string]: string }?) -> ()"),
            ("inc", "(self: Gauge, n: number?, labels: { [string]: string }?) -> ()"),
        ],
    },
    Shape {
        name: "Histogram",
        fields: &[("observe", "(self: Histogram, n: number, labels: { [string]: string }?) -> ()")],
    },
    Shape { name: "PutOptions", fields: &[("ttl", "Duration?"), ("if_absent", "boolean?")] },
    Shape {
        name: "Answer",
        fields: &[
            ("allowed", "boolean?"),
            ("kind", "string?"),
            ("code", "string?"),
            ("why", "string?"),
            ("decision", "string?"),
            ("hook", "string?"),
            ("plugin", "string?"),
            ("place", "string?"),
            ("reason", "string?"),
            ("id", "string?"),
            ("user", "string?"),
            ("tenant", "string?"),
            ("attrs", "any"),
            ("view", "string?"),
            ("expires", "number?"),
            ("grants", "any"),
            ("payload", "any"),
            ("channel", "string?"),
            ("ttl", "number?"),
            ("stored", "boolean?"),
            ("meta", "any"),
            ("retry_ms", "number?"),
            ("text", "string?"),
            ("event", "string?"),
            ("status", "number?"),
            ("headers", "any"),
            ("body", "string?"),
            ("json", "any"),
        ],
    },
];
