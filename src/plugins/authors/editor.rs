//! What editors read: the library's types for luau-lsp and for LuaLS, both made from the registry.

use std::collections::BTreeMap;

use super::testing;
use crate::plugins::api::types::{ALIASES, SHAPES};
use crate::plugins::{Entry, registry};

/// `aether.d.luau`, a definitions file for luau-lsp.
pub fn luau() -> String {
    let mut text = String::from("-- Made by `aether plugin types`: what the global `aether` has.\n\n");
    for (name, kind) in ALIASES {
        text.push_str(&format!("type {name} = {kind}\n"));
    }
    for shape in SHAPES {
        text.push_str(&format!("type {} = {{\n", shape.name));
        for (field, kind) in shape.fields {
            text.push_str(&format!("\t{field}: {kind},\n"));
        }
        text.push_str("}\n");
    }
    text.push_str("\ndeclare aether: ");
    Tree::whole().write_luau(1, &mut text);
    text.push('\n');
    text
}

/// Names below `aether`, by their parts.
#[derive(Default)]
struct Tree {
    inner: BTreeMap<&'static str, Tree>,
    entry: Option<&'static Entry>,
}

impl Tree {
    fn whole() -> Tree {
        let mut root = Tree::default();
        for entry in registry().chain(testing::registry()) {
            let place = entry.name.split('.').fold(&mut root, |tree, part| tree.inner.entry(part).or_default());
            place.entry = Some(entry);
        }
        root
    }

    fn write_luau(&self, depth: usize, text: &mut String) {
        text.push_str("{\n");
        let tabs = "\t".repeat(depth);
        for (name, tree) in &self.inner {
            if let Some(entry) = tree.entry {
                text.push_str(&format!("{tabs}-- {}\n{tabs}{name}: {},\n", entry.doc, entry.kind));
            } else {
                text.push_str(&format!("{tabs}{name}: "));
                tree.write_luau(depth + 1, text);
                text.push_str(",\n");
            }
        }
        text.push_str(&"\t".repeat(depth - 1));
        text.push('}');
    }

    fn modules(&self, path: &str, found: &mut Vec<String>) {
        for (name, tree) in self.inner.iter().filter(|(_, tree)| !tree.inner.is_empty()) {
            found.push(format!("{path}.{name}"));
            tree.modules(&format!("{path}.{name}"), found);
        }
    }
}

/// `aether.lua`, the same with LuaLS's annotations.
pub fn luals() -> String {
    let mut text = String::from("---@meta\n-- Made by `aether plugin types`: what the global `aether` has.\n\n");
    for (name, kind) in ALIASES {
        text.push_str(&format!("---@alias aether.{name} {}\n", said(kind)));
    }
    for shape in SHAPES {
        text.push_str(&format!("\n---@class aether.{}\n", shape.name));
        for (field, kind) in shape.fields {
            text.push_str(&format!("---@field {field} {}\n", said(kind)));
        }
    }
    text.push_str("\naether = {}\n");
    let mut modules = Vec::new();
    Tree::whole().modules("aether", &mut modules);
    for module in modules {
        text.push_str(&format!("{module} = {{}}\n"));
    }
    for entry in registry().chain(testing::registry()) {
        text.push_str(&format!("\n---{}\n", entry.doc));
        match Type::read(entry.kind) {
            Type::Function(args, gives) => {
                let mut names = Vec::new();
                for (name, kind) in &args {
                    let (optional, kind) = kind.without_nil();
                    let mark = if optional && name != "..." { "?" } else { "" };
                    text.push_str(&format!("---@param {name}{mark} {}\n", kind.luals()));
                    names.push(name.as_str());
                }
                for kind in gives {
                    text.push_str(&format!("---@return {}\n", kind.luals()));
                }
                text.push_str(&format!("function aether.{}({}) end\n", entry.name, names.join(", ")));
            }
            kind => text.push_str(&format!("---@type {}\naether.{} = nil\n", kind.luals(), entry.name)),
        }
    }
    text
}

fn said(kind: &str) -> String {
    Type::read(kind).luals()
}

/// As much of Luau's types as the library uses.
#[derive(Debug)]
enum Type {
    /// `string`, `"text"`, `any`.
    Word(String),
    Union(Vec<Type>),
    Optional(Box<Type>),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Record(Vec<(String, Type)>),
    Function(Vec<(String, Type)>, Vec<Type>),
}

impl Type {
    fn read(text: &str) -> Type {
        Words { rest: text }.kind()
    }

    fn without_nil(&self) -> (bool, &Type) {
        match self {
            Type::Optional(inner) => (true, inner),
            other => (false, other),
        }
    }

    fn luals(&self) -> String {
        let args = |args: &[(String, Type)]| {
            let shown = |(name, kind): &(String, Type)| {
                let (optional, kind) = kind.without_nil();
                format!("{name}{}: {}", if optional { "?" } else { "" }, kind.luals())
            };
            args.iter().map(shown).collect::<Vec<_>>().join(", ")
        };
        match self {
            Type::Word(word) => {
                let ours = ALIASES.iter().map(|(name, _)| *name).chain(SHAPES.iter().map(|shape| shape.name));
                if ours.into_iter().any(|name| name == word) {
                    format!("aether.{word}")
                } else {
                    word.replace("buffer", "userdata")
                }
            }
            Type::Union(all) => all.iter().map(Type::luals).collect::<Vec<_>>().join(" | "),
            Type::Optional(inner) => format!("({})?", inner.luals()),
            Type::List(item) => format!("({})[]", item.luals()),
            Type::Map(key, value) => format!("table<{}, {}>", key.luals(), value.luals()),
            Type::Record(fields) => format!("{{ {} }}", args(fields)),
            Type::Function(takes, gives) => {
                let gives: Vec<_> = gives.iter().map(Type::luals).collect();
                let gives = if gives.is_empty() { String::new() } else { format!(": {}", gives.join(", ")) };
                format!("fun({}){gives}", args(takes))
            }
        }
    }
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn takes(&mut self, sign: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(sign);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let ends = |c: char| !(c.is_alphanumeric() || c == '_' || c == '"' || c == '.');
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        word.to_owned()
    }

    fn kind(&mut self) -> Type {
        let mut all = vec![self.one()];
        while self.takes("|") {
            all.push(self.one());
        }
        if all.len() == 1 { all.remove(0) } else { Type::Union(all) }
    }

    fn one(&mut self) -> Type {
        let mut kind = if self.takes("(") {
            self.function()
        } else if self.takes("{") {
            self.table()
        } else {
            Type::Word(self.word())
        };
        while self.takes("?") {
            kind = Type::Optional(Box::new(kind));
        }
        kind
    }

    /// After `(`: a function's arguments, or a type in brackets.
    fn function(&mut self) -> Type {
        let before = self.rest;
        let mut args = Vec::new();
        while !self.takes(")") && !self.rest.is_empty() {
            let name = self.word();
            if let Some(kind) = name.strip_prefix("...") {
                args.push(("...".to_owned(), Type::Word(kind.to_owned())));
            } else if self.takes(":") {
                let kind = self.kind();
                args.push((name, kind));
            } else {
                self.rest = before;
                let inner = self.kind();
                self.takes(")");
                return inner;
            }
            self.takes(",");
        }
        let mut gives = Vec::new();
        if self.takes("->") {
            if self.takes("(") {
                while !self.takes(")") && !self.rest.is_empty() {
                    gives.push(self.kind());
                    self.takes(",");
                }
            } else {
                gives.push(self.kind());
            }
        }
        Type::Function(args, gives)
    }

    /// After `{`.
    fn table(&mut self) -> Type {
        if self.takes("[") {
            let key = self.kind();
            self.takes("]");
            self.takes(":");
            let value = self.kind();
            self.takes("}");
            return Type::Map(Box::new(key), Box::new(value));
        }
        let before = self.rest;
        let name = self.word();
        if name.is_empty() || !self.takes(":") {
            self.rest = before;
            let item = self.kind();
            self.takes("}");
            return Type::List(Box::new(item));
        }
        let mut fields = vec![(name, self.kind())];
        while self.takes(",") {
            let name = self.word();
            self.takes(":");
            fields.push((name, self.kind()));
        }
        self.takes("}");
        Type::Record(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_library_has_its_sentence_its_type_and_the_version_that_brought_it() {
        for entry in registry().chain(testing::registry()) {
            let Entry { name, doc, kind, since, .. } = entry;
            assert!(doc.ends_with(['.', ')']) && doc.len() > 3, "{name}: {doc:?}");
            assert!(!kind.is_empty() && since.split('.').count() == 3, "{name}: {kind} since {since}");
        }
    }

    #[test]
    fn what_editors_read_is_luau_and_lua() {
        let lua = mlua::Lua::new();
        let checked = luau().replace("declare aether: ", "type Aether = ");
        lua.load(&checked).into_function().unwrap_or_else(|error| panic!("{error}\n{checked}"));
        lua.load(luals()).into_function().unwrap_or_else(|error| panic!("{error}\n{}", luals()));
    }

    #[test]
    fn types_are_told_in_the_words_of_luals() {
        for (luau, luals) in [
            ("string?", "(string)?"),
            ("{ any }", "(any)[]"),
            ("{ [string]: any }", "table<string, any>"),
            ("(s: Session, n: number?) -> (any, string?)", "fun(s: aether.Session, n?: number): any, (string)?"),
            ("string | buffer", "string | userdata"),
            ("{ a: number, b: string? }", "{ a: number, b?: string }"),
            ("(...any) -> ()", "fun(...: any)"),
            ("((req: Visit) -> any)?", "(fun(req: aether.Visit): any)?"),
        ] {
            assert_eq!(said(luau), luals, "{luau}");
        }
        let text = super::luals();
        assert!(text.contains("---@param code string\n---@param why? string\n"), "{text}");
        assert!(text.contains("---@return aether.Verdict\nfunction aether.deny(code, why, options) end\n"), "{text}");
    }
}
