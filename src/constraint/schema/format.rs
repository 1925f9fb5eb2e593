//! Formats of strings, as patterns.
//!
//! JSON Schema makes formats annotations unless both sides agree that they are assertions (validation, 7.2). For texts that
//! are made, an assertion is what is wanted, where the format is a regular language. `regex` and `idn-hostname` are none,
//! and stay annotations, as do names that JSON Schema does not know.

/// Part of a date.
const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[048]|[2468][048]|[13579][26])00)-02-29)";
/// A time; leap seconds only where their offset shows that they can be.
const TIME: &str = "(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])|23:59:60(?:\\.[0-9]+)?(?:[zZ]|[+-]00:00))";
const DURATION: &str = "P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?|T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))";
const IPV4: &str =
    "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// A label that is no punycode, whose validity is no matter of form.
const LABEL: &str = "(?:[a-zA-Z0-9](?:[a-zA-Z0-9]?|[a-zA-Z0-9-][a-zA-Z0-9]|[a-zA-Z0-9-](?:[a-zA-Z0-9-][a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]|[a-zA-Z0-9]{2})[a-zA-Z0-9-]{0,58}[a-zA-Z0-9]|[a-zA-Z0-9-](?:[a-zA-Z0-9-][a-zA-Z0-9]|[a-zA-Z0-9]{2})))";
/// Characters beyond ASCII that IRIs allow.
const UCS: &str = "\\x{A0}-\\x{D7FF}\\x{F900}-\\x{FDCF}\\x{FDF0}-\\x{FFEF}\\x{10000}-\\x{1FFFD}\\x{20000}-\\x{2FFFD}\\x{30000}-\\x{3FFFD}\\x{40000}-\\x{4FFFD}\\x{50000}-\\x{5FFFD}\\x{60000}-\\x{6FFFD}\\x{70000}-\\x{7FFFD}\\x{80000}-\\x{8FFFD}\\x{90000}-\\x{9FFFD}\\x{A0000}-\\x{AFFFD}\\x{B0000}-\\x{BFFFD}\\x{C0000}-\\x{CFFFD}\\x{D0000}-\\x{DFFFD}\\x{E1000}-\\x{EFFFD}";
const POINTER: &str = "(?:/(?:[^~/]|~[01])*)*";

/// The pattern that a format stands for; nothing where it is an annotation.
pub(super) fn pattern(name: &str) -> Option<String> {
    let pattern = match name {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{DATE}[tT]{TIME}"),
        "duration" => DURATION.to_owned(),
        "email" => mailbox(""),
        "idn-email" => mailbox("\\x{80}-\\x{10FFFF}"),
        "hostname" => format!("{LABEL}(?:\\.{LABEL})*"),
        "ipv4" => IPV4.to_owned(),
        "ipv6" => ipv6(),
        "uuid" => "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}".to_owned(),
        "uri" => reference("", true),
        "uri-reference" => format!("(?:{}|{})", reference("", true), reference("", false)),
        "iri" => reference(UCS, true),
        "iri-reference" => format!("(?:{}|{})", reference(UCS, true), reference(UCS, false)),
        "uri-template" => template(),
        "json-pointer" => POINTER.to_owned(),
        "relative-json-pointer" => format!("(?:0|[1-9][0-9]*)(?:#|{POINTER})"),
        _ => return None,
    };
    Some(format!("^(?:{pattern})$"))
}

/// A mailbox (RFC 5321), with further characters in its names (RFC 6531).
fn mailbox(more: &str) -> String {
    let atom = format!("[a-zA-Z0-9!#$%&'*+/=?^_`{{|}}~{more}-]+");
    let quoted = format!("\"(?:[\\x20!#-\\[\\]-~{more}]|\\\\[\\x20-~])*\"");
    let label = match more {
        "" => "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?".to_owned(),
        more => format!("[a-zA-Z0-9{more}](?:[a-zA-Z0-9{more}-]*[a-zA-Z0-9{more}])?"),
    };
    let ipv6 = ipv6();
    format!("(?:{atom}(?:\\.{atom})*|{quoted})@(?:{label}(?:\\.{label})*|\\[(?:{IPV4}|IPv6:{ipv6})\\])")
}

/// An address of RFC 4291: eight groups, or fewer with `::` for the others, the last two perhaps as IPv4.
fn ipv6() -> String {
    let group = "[0-9a-fA-F]{1,4}";
    let end = format!("(?:{group}:{group}|{IPV4})");
    let mut forms = vec![format!("(?:{group}:){{6}}{end}")];
    for before in 0..=7usize {
        let head = match before {
            0 => "::".to_owned(),
            1 => format!("{group}::"),
            n => format!("(?:{group}:){{{}}}{group}::", n - 1),
        };
        // `::` stands for one group at least.
        let room = 7 - before;
        let mut tails = vec![String::new()];
        if room >= 1 {
            tails.push(group.to_owned());
        }
        if room >= 2 {
            tails.push(format!("(?:{group}:){{0,{}}}{end}", room - 2));
        }
        forms.push(format!("{head}(?:{})", tails.join("|")));
    }
    format!("(?:{})", forms.join("|"))
}

/// A URI (RFC 3986) or IRI (RFC 3987) with its scheme, or a relative reference.
fn reference(more: &str, absolute: bool) -> String {
    let private = match more {
        "" => "",
        _ => "\\x{E000}-\\x{F8FF}\\x{F0000}-\\x{FFFFD}\\x{100000}-\\x{10FFFD}",
    };
    let escape = "%[0-9a-fA-F]{2}";
    let unreserved = format!("a-zA-Z0-9._~{more}");
    let sub = "!$&'()*+,;=";
    let pchar = format!("(?:[{unreserved}{sub}:@-]|{escape})");
    let no_colon = format!("(?:[{unreserved}{sub}@-]|{escape})");
    let user = format!("(?:(?:[{unreserved}{sub}:-]|{escape})*@)?");
    let ip = format!("\\[(?:{}|[vV][0-9a-fA-F]+\\.[{unreserved}{sub}:-]+)\\]", ipv6());
    let host = format!("(?:{ip}|(?:[{unreserved}{sub}-]|{escape})*)");
    let authority = format!("//{user}{host}(?::[0-9]*)?(?:/{pchar}*)*");
    let rooted = format!("/(?:{pchar}+(?:/{pchar}*)*)?");
    let tail = format!("(?:\\?(?:{pchar}|[/?{private}])*)?(?:#(?:{pchar}|[/?])*)?");
    match absolute {
        true => format!("[a-zA-Z][a-zA-Z0-9+.-]*:(?:{authority}|{rooted}|{pchar}+(?:/{pchar}*)*|){tail}"),
        false => format!("(?:{authority}|{rooted}|{no_colon}+(?:/{pchar}*)*|){tail}"),
    }
}

/// A template of RFC 6570.
fn template() -> String {
    let escape = "%[0-9a-fA-F]{2}";
    let literal =
        "[!#$&-;=?-\\[\\]_a-z~\\x{A0}-\\x{D7FF}\\x{E000}-\\x{FDCF}\\x{FDF0}-\\x{FFEF}\\x{10000}-\\x{10FFFD}]";
    let name = format!("(?:[a-zA-Z0-9_]|{escape})(?:\\.?(?:[a-zA-Z0-9_]|{escape}))*");
    let variable = format!("{name}(?::[1-9][0-9]{{0,3}}|\\*)?");
    format!("(?:{literal}|{escape}|\\{{[+#./;?&=,!@|]?{variable}(?:,{variable})*\\}})*")
}
