//! packetdrill's language, as far as our scripts use it: lines to events.

use std::collections::HashMap;

/// An argument or result of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Any,
    Int(i64),
    Text(Vec<u8>),
    List(Vec<Expr>),
    Record(Vec<(String, Expr)>),
}

impl Expr {
    pub fn int(&self) -> Result<i64, String> {
        match self {
            Self::Int(n) => Ok(*n),
            Self::List(items) if items.len() == 1 => items[0].int(),
            other => Err(format!("a number is expected, not {other:?}")),
        }
    }

    pub fn field(&self, name: &str) -> Option<&Expr> {
        let Self::Record(fields) = self else { return None };
        fields.iter().find(|(n, _)| n.split('(').next() == Some(name)).map(|(_, value)| value)
    }
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub inbound: bool,
    pub flags: u8,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub win: Option<u16>,
    /// The urgent pointer.
    pub urg: u16,
    /// `None`: any options.
    pub options: Option<Vec<Opt>>,
    /// ECN bits of the IP header.
    pub ecn: Option<u8>,
    pub icmp: Option<Icmp>,
}

#[derive(Clone, Debug)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub mtu: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Opt {
    Nop,
    End,
    Mss(u16),
    WindowScale(u8),
    SackOk,
    Sack(Vec<(u32, u32)>),
    Timestamps(u32, u32),
    FastOpen(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub args: Vec<Expr>,
    pub result: Expr,
    pub errno: Option<String>,
}

#[derive(Clone, Debug)]
pub enum What {
    Packet(Packet),
    Call(Call),
    Check(String),
    Nothing,
}

/// A moment as the script gives it, us.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Any,
    At(i64),
    After(i64),
    Between(i64, i64),
    AfterBetween(i64, i64),
}

#[derive(Clone, Debug)]
pub struct Event {
    pub line: usize,
    pub when: When,
    /// A call that blocks until then.
    pub until: Option<i64>,
    pub what: What,
}

fn micros(text: &str) -> Result<i64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no time"))?;
    Ok((seconds * 1e6).round() as i64)
}

fn when(text: &str) -> Result<(When, Option<i64>), String> {
    if text == "*" {
        return Ok((When::Any, None));
    }
    if let Some((from, until)) = text.split_once("...") {
        let (when, _) = self::when(from)?;
        return Ok((when, Some(micros(until.trim_start_matches('+'))?)));
    }
    if let Some((from, to)) = text.split_once('~') {
        let (a, b) = (micros(from.trim_start_matches('+'))?, micros(to.trim_start_matches('+'))?);
        let when = if from.starts_with('+') { When::AfterBetween(a, b) } else { When::Between(a, b) };
        return Ok((when, None));
    }
    match text.strip_prefix('+') {
        Some(rest) => Ok((When::After(micros(rest)?), None)),
        None => Ok((When::At(micros(text)?), None)),
    }
}

/// The events of `text`, and the value of its `--so_flags=` lines.
pub fn parse(text: &str) -> Result<(Vec<Event>, String), String> {
    let (mut events, mut flags) = (Vec::new(), String::new());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((n, line)) = lines.next() {
        let line = line.split("//").next().unwrap_or("").trim().to_owned();
        let number = n + 1;
        if line.is_empty() || line.starts_with('`') || line.starts_with('#') {
            continue;
        }
        if let Some(option) = line.strip_prefix("--") {
            if let Some(value) = option.strip_prefix("so_flags=") {
                flags = value.to_owned();
            }
            continue;
        }
        let (time, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let mut rest = rest.trim().to_owned();
        if rest.starts_with("%{") {
            while !rest.contains("}%") {
                let (_, more) = lines.next().ok_or("code without an end")?;
                rest.push('\n');
                rest.push_str(more);
            }
        }
        let parsed =
            when(time).and_then(|(when, until)| Ok(Event { line: number, when, until, what: what(&rest)? }));
        events.push(parsed.map_err(|why| format!("line {number}: {why}"))?);
    }
    Ok((events, flags))
}

fn what(text: &str) -> Result<What, String> {
    if text.is_empty() || text.starts_with('`') {
        return Ok(What::Nothing);
    }
    if let Some(code) = text.strip_prefix("%{") {
        return Ok(What::Check(code.trim_end_matches("}%").trim().to_owned()));
    }
    if let Some(rest) = text.strip_prefix('<') {
        return packet(true, rest.trim()).map(What::Packet);
    }
    if let Some(rest) = text.strip_prefix('>') {
        return packet(false, rest.trim()).map(What::Packet);
    }
    call(text).map(What::Call)
}

fn packet(inbound: bool, text: &str) -> Result<Packet, String> {
    let mut packet = Packet {
        inbound,
        flags: 0,
        seq: 0,
        len: 0,
        ack: None,
        win: None,
        urg: 0,
        options: None,
        ecn: None,
        icmp: None,
    };
    let mut text = text;
    if let Some(rest) = text.strip_prefix('[') {
        let (mark, rest) = rest.split_once(']').ok_or("`[` without an end")?;
        packet.ecn = Some(match mark {
            "noecn" => 0,
            "ect1" => 1,
            "ect0" => 2,
            "ce" => 3,
            other => return Err(format!("unknown mark `{other}`")),
        });
        text = rest.trim();
    }
    if let Some(rest) = text.strip_prefix("icmp ") {
        return icmp(packet, rest);
    }
    if let Some((front, options)) = text.split_once('<') {
        let list = options.rsplit_once('>').ok_or("options without an end")?.0;
        packet.options = if list.trim() == "..." { None } else { Some(parse_options(list)?) };
        text = front;
    } else {
        packet.options = Some(Vec::new());
    }
    let mut words = text.split_whitespace();
    packet.flags = flags(words.next().ok_or("no flags")?)?;
    (packet.seq, packet.len) = range(words.next().ok_or("no sequence numbers")?)?;
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("`{word}` without a number"))?;
        let value: u32 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        match word {
            "ack" => packet.ack = Some(value),
            "win" => packet.win = Some(value as u16),
            "urg" => packet.urg = value as u16,
            other => return Err(format!("unknown word `{other}`")),
        }
    }
    Ok(packet)
}

fn icmp(mut packet: Packet, text: &str) -> Result<Packet, String> {
    let (head, quoted) = text.split_once('[').ok_or("an ICMP error quotes a segment")?;
    (packet.seq, packet.len) = range(quoted.trim_end_matches(']'))?;
    let words: Vec<&str> = head.split_whitespace().collect();
    let (kind, code) = match words.as_slice() {
        ["unreachable", "net_unreachable", ..] => (3, 0),
        ["unreachable", "host_unreachable", ..] => (3, 1),
        ["unreachable", "port_unreachable", ..] => (3, 3),
        ["unreachable", "frag_needed", ..] => (3, 4),
        _ => return Err(format!("unknown ICMP error `{head}`")),
    };
    let mtu = words.iter().skip_while(|w| **w != "mtu").nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    packet.icmp = Some(Icmp { kind, code, mtu });
    Ok(packet)
}

fn flags(text: &str) -> Result<u8, String> {
    text.chars().try_fold(0, |bits, c| {
        Ok(bits
            | match c {
                'F' => 1,
                'S' => 2,
                'R' => 4,
                'P' => 8,
                '.' => 16,
                'U' => 32,
                'E' => 64,
                'W' => 128,
                '-' => 0,
                other => return Err(format!("unknown flag `{other}`")),
            })
    })
}

/// `SEQ:END(LEN)` or `SEQ`.
fn range(text: &str) -> Result<(u32, u32), String> {
    let bad = || format!("`{text}` is no range of sequence numbers");
    let Some((seq, rest)) = text.split_once(':') else { return Ok((text.parse().map_err(|_| bad())?, 0)) };
    let (end, len) = rest.split_once('(').ok_or_else(bad)?;
    let (seq, end): (u32, u32) = (seq.parse().map_err(|_| bad())?, end.parse().map_err(|_| bad())?);
    let len: u32 = len.trim_end_matches(')').parse().map_err(|_| bad())?;
    if end.wrapping_sub(seq) == len { Ok((seq, len)) } else { Err(bad()) }
}

fn parse_options(list: &str) -> Result<Vec<Opt>, String> {
    let mut options = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let words: Vec<&str> = item.split_whitespace().collect();
        let number = |at: usize| -> Result<u32, String> {
            words.get(at).and_then(|w| w.parse().ok()).ok_or_else(|| format!("option `{item}`"))
        };
        options.push(match words[0] {
            "nop" => Opt::Nop,
            "eol" => Opt::End,
            "mss" => Opt::Mss(number(1)? as u16),
            "wscale" => Opt::WindowScale(number(1)? as u8),
            "sackOK" => Opt::SackOk,
            "TS" => Opt::Timestamps(number(2)?, number(4)?),
            "sack" => {
                let mut blocks = Vec::new();
                for block in &words[1..] {
                    let (left, right) = block.split_once(':').ok_or("a SACK block is LEFT:RIGHT")?;
                    let parse = |n: &str| n.parse().map_err(|_| format!("SACK block `{block}`"));
                    blocks.push((parse(left)?, parse(right)?));
                }
                Opt::Sack(blocks)
            }
            "FO" => Opt::FastOpen(hex(words.get(1).copied().unwrap_or(""))?),
            other => return Err(format!("unknown option `{other}`")),
        });
    }
    Ok(options)
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| format!("cookie `{text}`")))
        .collect()
}

fn call(text: &str) -> Result<Call, String> {
    let open = text.find('(').ok_or("a call has parentheses")?;
    let mut reader = Reader { text: &text[open + 1..], symbols: symbols() };
    let args = reader.items(')')?;
    reader.expect('=')?;
    let result = reader.expr()?;
    let errno = reader.text.split_whitespace().next().filter(|w| w.starts_with('E')).map(str::to_owned);
    Ok(Call { name: text[..open].trim().to_owned(), args, result, errno })
}

struct Reader<'a> {
    text: &'a str,
    symbols: HashMap<&'static str, i64>,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.text = self.text.trim_start();
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        self.skip();
        self.text =
            self.text.strip_prefix(c).ok_or_else(|| format!("`{c}` is expected at `{}`", self.text))?;
        Ok(())
    }

    fn items(&mut self, end: char) -> Result<Vec<Expr>, String> {
        let mut items = Vec::new();
        loop {
            self.skip();
            if let Some(rest) = self.text.strip_prefix(end) {
                self.text = rest;
                return Ok(items);
            }
            items.push(self.expr()?);
            self.skip();
            if let Some(rest) = self.text.strip_prefix(',') {
                self.text = rest;
            }
        }
    }

    fn word(&mut self) -> String {
        self.skip();
        let end = self
            .text
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-' || c == '~'))
            .unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        let word = word.to_owned();
        self.text = rest;
        word
    }

    fn expr(&mut self) -> Result<Expr, String> {
        self.skip();
        if let Some(rest) = self.text.strip_prefix("...") {
            self.text = rest;
            return Ok(Expr::Any);
        }
        if let Some(rest) = self.text.strip_prefix('[') {
            self.text = rest;
            return self.items(']').map(Expr::List);
        }
        if let Some(rest) = self.text.strip_prefix('"') {
            let (text, rest) = rest.split_once('"').ok_or("a text without an end")?;
            self.text = rest;
            return Ok(Expr::Text(text.replace("\\0", "\0").into_bytes()));
        }
        if let Some(rest) = self.text.strip_prefix('{') {
            self.text = rest;
            return self.record();
        }
        let mut value = self.term()?;
        loop {
            self.skip();
            let Some(rest) = self.text.strip_prefix('|') else { return Ok(Expr::Int(value)) };
            self.text = rest;
            value |= self.term()?;
        }
    }

    fn record(&mut self) -> Result<Expr, String> {
        let mut fields = Vec::new();
        loop {
            self.skip();
            if let Some(rest) = self.text.strip_prefix('}') {
                self.text = rest;
                return Ok(Expr::Record(fields));
            }
            let end = self.text.find(['=', ',', '}']).ok_or("a record without an end")?;
            let name = if self.text[end..].starts_with('=') {
                let name = self.text[..end].trim().to_owned();
                self.text = &self.text[end + 1..];
                name
            } else {
                String::new()
            };
            fields.push((name, self.expr()?));
            self.skip();
            if let Some(rest) = self.text.strip_prefix(',') {
                self.text = rest;
            }
        }
    }

    fn term(&mut self) -> Result<i64, String> {
        let word = self.word();
        if let Some(hex) = word.strip_prefix("0x") {
            return i64::from_str_radix(hex, 16).map_err(|_| format!("`{word}` is no number"));
        }
        if let Ok(n) = word.parse() {
            return Ok(n);
        }
        self.symbols.get(word.as_str()).copied().ok_or_else(|| format!("unknown symbol `{word}`"))
    }
}

/// The symbols of the C headers that scripts name.
pub fn symbols() -> HashMap<&'static str, i64> {
    macro_rules! table {
        ($($name:ident)*) => { HashMap::from([$((stringify!($name), libc::$name as i64)),*]) };
    }
    let mut table: HashMap<&'static str, i64> = table!(
        AF_INET AF_INET6 SOCK_STREAM SOCK_DGRAM SOCK_NONBLOCK SOCK_CLOEXEC IPPROTO_TCP IPPROTO_UDP IPPROTO_IP
        SOL_SOCKET SO_REUSEADDR SO_REUSEPORT SO_ERROR SO_KEEPALIVE SO_LINGER SO_RCVBUF SO_SNDBUF SO_RCVLOWAT SO_RCVTIMEO
        SO_SNDTIMEO SO_TYPE SO_DOMAIN SO_PROTOCOL SO_ACCEPTCONN SO_OOBINLINE
        TCP_NODELAY TCP_CORK TCP_MAXSEG TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_USER_TIMEOUT TCP_SYNCNT TCP_CONGESTION
        TCP_INFO TCP_FASTOPEN TCP_FASTOPEN_CONNECT TCP_QUICKACK TCP_DEFER_ACCEPT TCP_NOTSENT_LOWAT IP_TOS IP_TTL
        F_GETFL F_SETFL O_RDWR O_NONBLOCK SHUT_RD SHUT_WR SHUT_RDWR FIONREAD TIOCOUTQ
        MSG_PEEK MSG_TRUNC MSG_DONTWAIT MSG_WAITALL MSG_MORE MSG_NOSIGNAL MSG_FASTOPEN MSG_OOB
        POLLIN POLLOUT POLLERR POLLHUP POLLRDHUP POLLNVAL POLLPRI
        EPOLLIN EPOLLOUT EPOLLERR EPOLLHUP EPOLLRDHUP EPOLLET EPOLLONESHOT EPOLL_CTL_ADD EPOLL_CTL_MOD EPOLL_CTL_DEL
        SPLICE_F_MOVE SPLICE_F_NONBLOCK
        EAGAIN EINPROGRESS EALREADY EISCONN ENOTCONN EINVAL EPIPE ECONNRESET ECONNREFUSED ETIMEDOUT EBADF ENOENT EEXIST
        EADDRINUSE EHOSTUNREACH ENETUNREACH EMSGSIZE ENOPROTOOPT EOPNOTSUPP ENOTSOCK ECONNABORTED EDESTADDRREQ EAFNOSUPPORT
    );
    table.insert("SIOCINQ", libc::FIONREAD as i64);
    table.insert("SIOCOUTQ", libc::TIOCOUTQ as i64);
    table.insert("SIOCOUTQNSD", 0x894b);
    table.insert("SIOCATMARK", 0x8905);
    table.insert("SOL_TCP", i64::from(libc::IPPROTO_TCP));
    // linux/tcp.h; libc has no names for these.
    table.insert("TCP_FASTOPEN_KEY", 33);
    table.insert("TCP_FASTOPEN_NO_COOKIE", 34);
    table.insert("SOL_IP", i64::from(libc::IPPROTO_IP));
    table
}
