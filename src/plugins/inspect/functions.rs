//! The functions of a source: what each calls, and which variables outside of it each writes to.
//!
//! Read from the words alone, with the blocks and the local names in view; nothing runs. What it cannot see (a function
//! that is kept in a table, a write through another name) it does not report.

use std::collections::HashMap;

use super::tokens::{Kind, Token, tokens};

/// One function; the first of a file is the file itself.
#[derive(Debug, Default)]
pub struct Function {
    pub line: usize,
    parent: usize,
    calls: Vec<Call>,
    writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub struct Call {
    /// As if no local name stood for a part of it: `aether.http.get`.
    pub path: String,
    pub line: usize,
    /// The function of this file that is called.
    callee: Option<usize>,
}

/// A change of a variable, or of a table in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub name: String,
    pub line: usize,
    /// The function whose local it is; none is a global.
    owner: Option<usize>,
}

pub struct Functions(Vec<Function>);

impl Functions {
    pub fn read(source: &str) -> Functions {
        Reader::new(&tokens(source)).read()
    }

    /// The functions that begin on a line.
    pub fn at(&self, line: usize) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().skip(1).filter(move |(_, function)| function.line == line).map(|(at, _)| at)
    }

    /// Whether `inner` is `outer` or stands in it.
    fn is_within(&self, mut inner: usize, outer: usize) -> bool {
        while inner != outer {
            if inner == 0 {
                return false;
            }
            inner = self.0[inner].parent;
        }
        true
    }

    /// Everything that runs when `function` does, as far as one can see: what stands in it, and what of this file it calls.
    fn reach(&self, function: usize) -> Vec<usize> {
        let (mut found, mut next) = (Vec::new(), vec![function]);
        while let Some(one) = next.pop() {
            if found.contains(&one) {
                continue;
            }
            found.push(one);
            next.extend((0..self.0.len()).filter(|at| *at != one && self.is_within(*at, one)));
            next.extend(self.0[one].calls.iter().filter_map(|call| call.callee));
        }
        found
    }

    pub fn calls(&self, function: usize) -> Vec<Call> {
        let all = self.reach(function).into_iter().flat_map(|one| self.0[one].calls.clone());
        let mut calls: Vec<_> = all.collect();
        calls.sort_by_key(|call| call.line);
        calls
    }

    /// Writes to what outlives a call of `function`.
    pub fn writes(&self, function: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        for one in self.reach(function) {
            for write in &self.0[one].writes {
                // What a called function has of its own goes with it, too.
                let stays = write
                    .owner
                    .is_none_or(|owner| !(self.is_within(owner, function) || owner != 0 && self.is_within(owner, one)));
                if stays && !writes.contains(write) {
                    writes.push(write.clone());
                }
            }
        }
        writes.sort_by_key(|write| write.line);
        writes
    }
}

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

struct Reader<'a> {
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
    fn new(tokens: &'a [Token<'a>]) -> Self {
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

    fn read(mut self) -> Functions {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of the function that begins on the first line that has `function(`, as `name:line`.
    fn written(source: &str) -> Vec<String> {
        let functions = Functions::read(source);
        let line = 1 + source.lines().position(|line| line.contains("function(")).unwrap();
        let hook = functions.at(line).next().unwrap();
        functions.writes(hook).into_iter().map(|write| format!("{}:{}", write.name, write.line)).collect()
    }

    fn called(source: &str) -> Vec<String> {
        let functions = Functions::read(source);
        let line = 1 + source.lines().position(|line| line.contains("function(")).unwrap();
        let hook = functions.at(line).next().unwrap();
        functions.calls(hook).into_iter().map(|call| format!("{}:{}", call.path, call.line)).collect()
    }

    #[test]
    fn writes_to_what_is_outside_are_found_and_writes_to_ones_own_are_not() {
        let source = r#"
local count, cache, list = 0, {}, {}
aether.on.publish("a", function(s, ch)
	local own, t: {[string]: number} = 1, {}
	own += 1
	t.x = own
	count += 1
	cache[s.user].last = { count = 1, [2] = 3 }
	table.insert(list, own)
	for i, user in { 1 } do user = i end
	local function inner(a) a = 1; own = 2; cache = nil end
	leak = if own == 1 then 1 else 2
	if own == 2 then own = 3 elseif own == 4 then own = 5 else own = 6 end
	while own < 3 do own = 4 end
	repeat local z = 1 z = 2 until z
	return true
end)
count = 3
"#;
        assert_eq!(written(source), ["count:7", "cache:8", "list:9", "cache:11", "leak:12"]);
    }

    #[test]
    fn an_if_that_is_an_expression_has_no_end() {
        let source = r#"
local n = 0
on(function(s)
	local a = if s then if s.x then 1 else 2 elseif s.y then 3 else if s.z then 4 else 5
	return if a then `{if a then "}" else "{"}` else { x = if a then 1 else 2 }
end)
n = 1
on(function() n = 2 end)
"#;
        let functions = Functions::read(source);
        assert_eq!(functions.0.len(), 3);
        assert_eq!(functions.0[2].parent, 0);
        assert_eq!(written(source), [""; 0]);
    }

    #[test]
    fn calls_are_told_by_their_whole_path_and_followed_within_the_file() {
        let source = r#"
local http, kv = aether.http, aether.kv("x")
local get = http.get
local function ask(user: string): (boolean, string?)
	return http.post("u", { user = user }), get "v"
end
local cached = aether.memo(ask, { ttl = "1m" })
local later = function() ask("x") end
aether.on.publish("a", function(s)
	later()
	kv:get("x")
	return cached(s.user)
end)
"#;
        let source = source.replace("function() ask", "function () ask");
        let line = 1 + source.lines().position(|line| line.contains("on.publish")).unwrap();
        let functions = Functions::read(&source);
        let hook = functions.at(line).next().unwrap();
        let calls: Vec<_> = functions.calls(hook).into_iter().map(|call| (call.path, call.line)).collect();
        for (path, line) in [
            ("aether.http.post", 5),
            ("aether.http.get", 5),
            ("local later", 10),
            ("local kv:get", 11),
            ("aether.memo", 12),
        ] {
            assert!(calls.contains(&(path.to_owned(), line)), "{path} in {calls:?}");
        }
        assert!(called("x(function() string.find(a, b) end)").contains(&"string.find:1".to_owned()));
    }

    #[test]
    fn what_is_no_luau_is_read_to_its_end() {
        for source in [
            "end end end",
            "function",
            "local",
            "for",
            "= = =",
            "a.b.c[",
            ") = 1",
            "if if if",
            "function f(",
            "local x: (",
            "else",
            "until",
        ] {
            Functions::read(source);
        }
    }

    #[test]
    fn the_shipped_files_are_read_as_they_are() {
        for file in ["plugins/jwt-auth/main.lua", "plugins/api-keys/main.lua", "scripts/rules.lua"] {
            let source = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            let functions = Functions::read(&source);
            for (at, function) in functions.0.iter().enumerate().skip(1) {
                assert_eq!(functions.writes(at), [], "{file}:{}", function.line);
            }
        }
    }
}
