//! Reads the words of a source, with the blocks and the local names in view, into its functions.

use std::collections::HashMap;

use super::functions::{Call, Function, Functions, Write};
use super::tokens::{Kind, Token};

/// What a local name stands for.
#[derive(Clone, Default)]
struct Local {
    owner: usize,
    path: Option<String>,
    function: Option<usize>,
}

#[derive(PartialEq)]
enum Opened {
    Bracket,
    Block,
    If,
    Function,
}

pub struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    functions: Vec<Function>,
    opened: Vec<Opened>,
    scopes: Vec<HashMap<&'a str, Local>>,
    current: usize,
    /// The `if`s that are open: whether each is an expression.
    ifs: Vec<bool>,
    /// The latest `then` or `else` was an expression's.
    of_expression: bool,
    /// Names of a `for`, for the block that its `do` opens.
    loop_names: Vec<&'a str>,
}

/// Functions that change the table that they are given first.
const CHANGING: [&str; 5] = ["table.insert", "table.remove", "table.clear", "table.sort", "rawset"];
const ASSIGNMENTS: [&str; 9] = ["=", "+=", "-=", "*=", "/=", "//=", "%=", "^=", "..="];
const KEYWORDS: [&str; 21] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
];

impl<'a> Reader<'a> {
    pub fn new(tokens: &'a [Token<'a>]) -> Self {
        Reader {
            tokens,
            at: 0,
            functions: vec![Function::default()],
            opened: Vec::new(),
            scopes: vec![HashMap::new()],
            current: 0,
            ifs: Vec::new(),
            of_expression: false,
            loop_names: Vec::new(),
        }
    }

    fn text(&self, at: usize) -> &'a str {
        self.tokens.get(at).filter(|token| matches!(token.kind, Kind::Name | Kind::Sign)).map_or("", |token| token.text)
    }

    fn before(&self, at: usize) -> &'a str {
        at.checked_sub(1).map_or("", |at| self.text(at))
    }

    fn is_name(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Name && !KEYWORDS.contains(&token.text))
    }

    pub fn read(mut self) -> Functions {
        while self.at < self.tokens.len() {
            let next = self.step();
            self.at = next.max(self.at + 1);
        }
        Functions(self.functions)
    }

    /// Takes one word; where the next one is.
    fn step(&mut self) -> usize {
        let at = self.at;
        match self.text(at) {
            "function" => return self.open_function(),
            "local" if self.text(at + 1) != "function" => return self.declare(),
            "for" => return self.begin_loop(),
            "do" => {
                self.open(Opened::Block);
                for name in std::mem::take(&mut self.loop_names) {
                    self.bind(name, Local::default());
                }
            }
            "repeat" => self.open(Opened::Block),
            "if" => {
                let is_expression = self.begins_expression(at);
                self.ifs.push(is_expression);
            }
            "then" => {
                self.of_expression = self.ifs.last() == Some(&true);
                if !self.of_expression {
                    self.open(Opened::If);
                }
            }
            "else" | "elseif" => {
                self.of_expression = self.ifs.last() == Some(&true);
                match (self.of_expression, self.text(at)) {
                    (true, "else") => drop(self.ifs.pop()),
                    (true, _) => {}
                    (false, word) => {
                        self.close();
                        if word == "else" {
                            self.open(Opened::If);
                        }
                    }
                }
            }
            "end" | "until" => {
                self.end_block();
            }
            "(" | "{" | "[" => self.opened.push(Opened::Bracket),
            ")" | "}" | "]" => {
                self.end_bracket();
            }
            sign if ASSIGNMENTS.contains(&sign) && self.opened.last() != Some(&Opened::Bracket) => self.assign(at),
            _ if self.is_name(at) && !matches!(self.before(at), "." | ":") => return self.mention(at),
            _ => {}
        }
        at + 1
    }

    /// Whether the word at `at` begins an expression, and no statement.
    fn begins_expression(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1).map(|before| self.tokens[before]) else { return false };
        match (before.kind, before.text) {
            (Kind::Name, "then" | "else") => self.of_expression,
            (Kind::Name, word) => {
                ["return", "and", "or", "not", "in", "until", "while", "if", "elseif"].contains(&word)
            }
            (Kind::Sign, sign) => ![")", "}", "]", ";", "..."].contains(&sign),
            _ => false,
        }
    }

    fn open(&mut self, what: Opened) {
        self.opened.push(what);
        self.scopes.push(HashMap::new());
    }

    fn end_block(&mut self) {
        if self.close() == Some(Opened::If) {
            self.ifs.pop();
        }
    }

    fn end_bracket(&mut self) {
        if self.opened.last() == Some(&Opened::Bracket) {
            self.opened.pop();
        }
    }

    fn close(&mut self) -> Option<Opened> {
        // A bracket that is still open is a mistake that the compiler tells.
        while self.opened.last() == Some(&Opened::Bracket) {
            self.opened.pop();
        }
        let opened = self.opened.pop()?;
        self.scopes.pop();
        if opened == Opened::Function {
            self.current = self.functions[self.current].parent;
        }
        Some(opened)
    }

    fn bind(&mut self, name: &'a str, local: Local) {
        let local = Local { owner: self.current, ..local };
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, local);
        }
    }

    fn find(&self, name: &str) -> Option<&Local> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    /// `function a.b:c(..)`, `local function f(..)` or `function(..)`.
    fn open_function(&mut self) -> usize {
        let (start, is_local) = (self.at, self.before(self.at) == "local");
        let mut at = start + 1;
        let name = self.is_name(at).then(|| self.text(at));
        let dotted = matches!(self.text(at + 1), "." | ":");
        while self.is_name(at) || matches!(self.text(at), "." | ":") {
            at += 1;
        }
        let function = self.functions.len();
        self.functions.push(Function { line: self.tokens[start].line, parent: self.current, ..Function::default() });
        match name {
            Some(name) if is_local => self.bind(name, Local { function: Some(function), ..Local::default() }),
            Some(name) => {
                self.write(name, self.tokens[start].line);
                if !dotted && self.find(name).is_some() {
                    self.set_function(name, function);
                }
            }
            // `local f = function() .. end`, whose name is bound already.
            None if self.before(start) == "=" && start >= 2 && self.is_name(start - 2) => {
                self.set_function(self.text(start - 2), function);
            }
            None => {}
        }
        self.open(Opened::Function);
        self.current = function;
        if dotted {
            self.bind("self", Local::default());
        }
        if self.text(at) == "<" {
            while at < self.tokens.len() && self.text(at) != "(" {
                at += 1;
            }
        }
        let mut depth = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                "(" | "{" | "[" => depth += 1,
                ")" | "}" | "]" => depth -= 1,
                _ if depth == 1 && self.is_name(at) && matches!(self.before(at), "(" | ",") => {
                    self.bind(self.text(at), Local::default());
                }
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        self.skip_type(at)
    }

    fn set_function(&mut self, name: &str, function: usize) {
        if let Some(local) = self.scopes.iter_mut().rev().find_map(|scope| scope.get_mut(name)) {
            local.function = Some(function);
        }
    }

    /// Over `: type`, if there is one.
    fn skip_type(&self, mut at: usize) -> usize {
        if self.text(at) != ":" {
            return at;
        }
        at += 1;
        loop {
            match self.text(at) {
                "(" | "{" => at = self.matching(at),
                _ => at += 1,
            }
            if self.text(at) == "<" {
                while at < self.tokens.len() && self.text(at) != ">" {
                    at += 1;
                }
                at += 1;
            }
            while self.text(at) == "?" {
                at += 1;
            }
            match self.text(at) {
                "|" | "&" | "->" | "." => at += 1,
                _ => return at,
            }
        }
    }

    /// After the bracket that closes the one at `at`.
    fn matching(&self, mut at: usize) -> usize {
        let mut depth = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                "(" | "{" | "[" => depth += 1,
                ")" | "}" | "]" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        at
    }

    /// `local a, b = aether.x, ..`: names, and the paths that they stand for.
    fn declare(&mut self) -> usize {
        let mut at = self.at + 1;
        let mut names = Vec::new();
        while self.is_name(at) {
            names.push(self.text(at));
            at = self.skip_type(at + 1);
            if self.text(at) != "," {
                break;
            }
            at += 1;
        }
        let mut paths: Vec<Option<String>> = Vec::new();
        if self.text(at) == "=" {
            let mut value = at + 1;
            while paths.len() < names.len() {
                let (path, end) = self.path(value);
                // What a call of a function that makes one gives is known by the call.
                let made = self.text(end) == "(" && path.as_deref() == Some("aether.memo");
                let whole = made || !matches!(self.text(end), "(" | "[" | ":" | "{");
                paths.push(path.filter(|_| whole));
                if self.text(end) != "," || made {
                    break;
                }
                value = end + 1;
            }
        }
        for (index, name) in names.into_iter().enumerate() {
            self.bind(name, Local { path: paths.get(index).cloned().flatten(), ..Local::default() });
        }
        // The `=` itself is no assignment to what is outside.
        if self.text(at) == "=" { at + 1 } else { at }
    }

    fn begin_loop(&mut self) -> usize {
        let mut at = self.at + 1;
        self.loop_names.clear();
        while self.is_name(at) {
            self.loop_names.push(self.text(at));
            at = self.skip_type(at + 1);
            if self.text(at) != "," {
                break;
            }
            at += 1;
        }
        at + 1
    }

    /// The dotted path that begins at `at`, its first name resolved, and where it ends.
    fn path(&self, at: usize) -> (Option<String>, usize) {
        if !self.is_name(at) {
            return (None, at);
        }
        let first = self.text(at);
        let mut path = match self.find(first) {
            Some(Local { path: Some(path), .. }) => path.clone(),
            Some(_) => format!("local {first}"),
            None => first.to_owned(),
        };
        let mut end = at + 1;
        while self.text(end) == "." && self.is_name(end + 1) {
            path = format!("{path}.{}", self.text(end + 1));
            end += 2;
        }
        (Some(path), end)
    }

    /// A name: the beginning of a call, perhaps.
    fn mention(&mut self, at: usize) -> usize {
        let (path, end) = self.path(at);
        let argument =
            self.tokens.get(end).is_some_and(|token| token.kind == Kind::Text || matches!(token.text, "(" | "{"));
        let line = self.tokens[at].line;
        if let Some(path) = path.filter(|_| argument || self.text(end) == ":") {
            let method = if self.text(end) == ":" { format!(":{}", self.text(end + 1)) } else { String::new() };
            if CHANGING.contains(&path.as_str()) && self.is_name(end + 1) {
                self.write(self.text(end + 1), line);
            }
            let callee = self.find(self.text(at)).filter(|_| end == at + 1).and_then(|local| local.function);
            self.functions[self.current].calls.push(Call { path: path + &method, line, callee });
        }
        end
    }

    /// The targets before an assignment, from the last to the first.
    fn assign(&mut self, sign: usize) {
        let mut end = sign;
        while let Some(root) = self.target(end) {
            match self.before(root) {
                "local" | "for" | ":" | "type" => return,
                before => {
                    self.write(self.text(root), self.tokens[root].line);
                    if before != "," {
                        return;
                    }
                    end = root - 1;
                }
            }
        }
    }

    /// Where the first name of a target that ends before `end` is: of `a.b[1].c` the `a`.
    fn target(&self, mut end: usize) -> Option<usize> {
        loop {
            let last = end.checked_sub(1)?;
            if matches!(self.text(last), "]" | ")") {
                let (mut depth, mut at) = (0, last);
                loop {
                    match self.text(at) {
                        ")" | "]" | "}" => depth += 1,
                        "(" | "[" | "{" => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                    at = at.checked_sub(1)?;
                }
                end = at;
            } else if self.is_name(last) {
                match self.before(last) {
                    "." | ":" if last >= 2 && self.before(last) == "." => end = last - 1,
                    _ => return Some(last),
                }
            } else {
                return None;
            }
        }
    }

    fn write(&mut self, name: &str, line: usize) {
        let owner = self.find(name).map(|local| local.owner);
        self.functions[self.current].writes.push(Write { name: name.to_owned(), line, owner });
    }
}
