//! Tells by e-mail: a message for people, handed to a mail server over SMTP (RFC 5321), under TLS from STARTTLS (RFC 3207) or from
//! the first byte (RFC 8314) on.
//!
//! The only file that touches lettre. TLS 1.2 is spoken here as well as 1.3, since many mail servers have nothing later; the
//! server's certificate is verified by name. Limits: ten seconds from connecting to the last answer; addresses are in ASCII, so that
//! any server takes them, and what is sent has seven bits.
//!
//! A message has the same id for each try, so that whoever gets it twice can tell, and the end of an alert answers to its beginning, so
//! that mail programs show them together.

use std::path::Path;
use std::time::{Duration, SystemTime};

use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::ClientId;

use super::message::{self, Letter};
use super::rules::channel::{Mail, MailTls};
use crate::model::{Delivery, Event, Sent};

const TIMEOUT: Duration = Duration::from_secs(10);
/// So many tries, which take five minutes, wait for a recipient that is put off: then those that are taken are told without it.
const PATIENT_TRIES: u32 = 6;

/// Is this an address, with or without a name, that a message may have?
pub(super) fn is_mailbox(text: &str) -> bool {
    // The grammar of addresses allows lines to be folded.
    let plain = !text.chars().any(char::is_control);
    plain && text.parse::<Mailbox>().is_ok_and(|mailbox| mailbox.email.to_string().is_ascii())
}

/// Sends what `delivery` says; there is nothing to send where a person has acknowledged. `ledger` names this ledger.
pub(super) async fn send(
    mail: &Mail,
    ca_file: Option<&Path>,
    password: Option<String>,
    delivery: &Delivery,
    ledger: &str,
) -> Sent {
    let Some(letter) = message::letter(delivery, ledger) else { return Sent::Told };
    let message = match written(mail, &letter, delivery, ledger) {
        Ok(message) => message,
        Err(error) => return Sent::Refused(error),
    };
    let tls = match tls(mail, ca_file) {
        Ok(tls) => tls,
        Err(error) => return Sent::Failed(error),
    };
    let credentials = mail.username.clone().zip(password).map(|(name, word)| Credentials::new(name, word));
    let is_patient = delivery.attempts < PATIENT_TRIES;
    let handed = hand_over(mail, &message, tls, credentials, is_patient);
    match tokio::time::timeout(TIMEOUT, handed).await {
        Ok(Ok(())) => Sent::Told,
        Ok(Err(sent)) => sent,
        Err(_) => Sent::Failed(format!("it did not answer within {TIMEOUT:?}")),
    }
}

struct Written {
    from: Mailbox,
    to: Vec<Mailbox>,
    bytes: Vec<u8>,
}

fn written(mail: &Mail, letter: &Letter, delivery: &Delivery, ledger: &str) -> Result<Written, String> {
    let mailbox = |text: &String| text.parse::<Mailbox>().map_err(|error| format!("{text}: {error}"));
    let from = mailbox(&mail.from)?;
    let to = mail.to.iter().map(mailbox).collect::<Result<Vec<_>, _>>()?;
    let id =
        |event: Event| format!("<{ledger}.{}.{}@{}>", delivery.alert.id, event.name(), from.email.domain());
    let at_ns = u64::try_from(delivery.created_ns).unwrap_or_default();
    let mut message = Message::builder()
        .from(from.clone())
        .subject(letter.subject.clone())
        .date(SystemTime::UNIX_EPOCH + Duration::from_nanos(at_ns))
        .message_id(Some(id(delivery.event)))
        // RFC 3834: nobody's vacation answers it.
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ));
    if delivery.event != Event::Trigger {
        message = message.in_reply_to(id(Event::Trigger)).references(id(Event::Trigger));
    }
    for mailbox in &to {
        message = message.to(mailbox.clone());
    }
    let message = message.singlepart(SinglePart::plain(letter.text.clone()));
    let bytes = message.map_err(|error| error.to_string())?.formatted();
    Ok(Written { from, to, bytes })
}

/// `None` where the way is plain.
fn tls(mail: &Mail, ca_file: Option<&Path>) -> Result<Option<TlsParameters>, String> {
    if mail.tls == MailTls::None {
        return Ok(None);
    }
    let mut builder = TlsParameters::builder(mail.host.clone());
    if let Some(path) = ca_file {
        let shown = path.display();
        let pem = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
        let ca = Certificate::from_pem(&pem).map_err(|error| format!("{shown}: {error}"))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(ca);
    }
    builder.build().map(Some).map_err(|error| error.to_string())
}

/// What a server's answer, or that there was none, means.
fn sent(error: &Error) -> Sent {
    // It tells its cause by itself.
    let text = error.to_string();
    if error.is_permanent() { Sent::Refused(text) } else { Sent::Failed(text) }
}

async fn hand_over(
    mail: &Mail,
    message: &Written,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    is_patient: bool,
) -> Result<(), Sent> {
    // Of a host in a cluster nobody knows the name; the sender's domain is one that resolves.
    let own = ClientId::Domain(message.from.email.domain().to_owned());
    let (first, later) = if mail.tls == MailTls::Implicit { (tls, None) } else { (None, tls) };
    let address = (mail.host.as_str(), mail.port);
    let server = AsyncSmtpConnection::connect_tokio1(address, Some(TIMEOUT), &own, first, None).await;
    let mut server = server.map_err(|error| sent(&error))?;
    if let Some(tls) = later {
        // Where it is not offered, this fails: somebody on the way may have struck it out.
        server.starttls(tls, &own).await.map_err(|error| sent(&error))?;
    }
    if let Some(credentials) = credentials {
        let known = [Mechanism::Plain, Mechanism::Login];
        server.auth(&known, &credentials).await.map_err(|error| sent(&error))?;
    }
    let from = MailFrom::new(Some(message.from.email.clone()), Vec::new());
    server.command(from).await.map_err(|error| sent(&error))?;
    name(&mut server, &message.to, is_patient).await?;
    server.command(Data).await.map_err(|error| sent(&error))?;
    server.message(&message.bytes).await.map_err(|error| sent(&error))?;
    // It was taken, whatever comes now.
    let _ = server.quit().await;
    Ok(())
}

/// Says who is to get it, until one is put off for whom it is worth waiting. Whom the server does not take is logged if others are
/// told.
async fn name(server: &mut AsyncSmtpConnection, to: &[Mailbox], is_patient: bool) -> Result<(), Sent> {
    let mut refused = Vec::new();
    for mailbox in to {
        let answer = server.command(Rcpt::new(mailbox.email.clone(), Vec::new())).await;
        let Err(error) = answer else { continue };
        let text = format!("{}: {error}", mailbox.email);
        if !error.is_permanent() && (is_patient || !error.is_transient()) {
            return Err(Sent::Failed(text));
        }
        refused.push((text, error.is_permanent()));
    }
    let is_final = refused.iter().all(|(_, is_permanent)| *is_permanent);
    let text = refused.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join("; ");
    if refused.len() == to.len() {
        return Err(if is_final { Sent::Refused(text) } else { Sent::Failed(text) });
    }
    if !refused.is_empty() {
        tracing::warn!(refused = text, "An alert is told to the others of its recipients alone.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::message::tests::delivery;

    fn mail() -> Mail {
        Mail {
            host: "mail.example.org".into(),
            port: 587,
            tls: MailTls::Starttls,
            username: None,
            from: "Tonnage <tonnage@example.org>".into(),
            to: vec!["ops@example.org".into(), "Ada <ada@example.org>".into()],
        }
    }

    /// Headers, and what follows them.
    fn halves(delivery: &Delivery) -> (String, String) {
        let letter = message::letter(delivery, "l1").unwrap();
        let bytes = written(&mail(), &letter, delivery, "l1").unwrap().bytes;
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.is_ascii(), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (format!("\r\n{head}\r\n"), body.to_owned())
    }

    fn has(head: &str, header: &str) -> bool {
        head.contains(&format!("\r\n{header}\r\n"))
    }

    #[test]
    fn a_message_has_one_id_for_all_tries_and_its_end_answers_to_its_beginning() {
        let (head, body) = halves(&delivery(Event::Trigger, "physics: 83.2 % is spent"));
        for header in [
            "From: Tonnage <tonnage@example.org>",
            "To: ops@example.org, Ada <ada@example.org>",
            "Subject: [CRITICAL] nearly spent: physics: 83.2 % is spent",
            "Message-ID: <l1.7.trigger@example.org>",
            "Date: Thu, 01 Jan 1970 00:00:02 +0000",
            "Auto-Submitted: auto-generated",
        ] {
            assert!(has(&head, header), "{header}: {head}");
        }
        assert!(!head.contains("In-Reply-To"), "{head}");
        assert!(body.contains("tonnage alert acknowledge 7"), "{body}");
        let again = Delivery { attempts: 3, ..delivery(Event::Trigger, "physics: 83.2 % is spent") };
        assert_eq!(halves(&again).0, head);
        let (head, _) = halves(&delivery(Event::Resolve, "m"));
        for header in [
            "Message-ID: <l1.7.resolve@example.org>",
            "In-Reply-To: <l1.7.trigger@example.org>",
            "References: <l1.7.trigger@example.org>",
            "Subject: [resolved] nearly spent: m",
        ] {
            assert!(has(&head, header), "{header}: {head}");
        }
        assert_eq!(message::letter(&delivery(Event::Acknowledge, "m"), "l1"), None);
    }

    const OWN: [&str; 9] = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "In-Reply-To",
        "References",
    ];

    #[test]
    fn whatever_a_message_says_it_adds_no_header_and_no_end() {
        let hostile = "ü\r\nBcc: eve@example.org\r\n\r\n.\r\nMAIL FROM:<eve@example.org>\n\u{85}x\0";
        for event in [Event::Trigger, Event::Resolve] {
            let mut delivery = delivery(event, hostile);
            delivery.alert.finding.rule = hostile.into();
            delivery.alert.finding.account = hostile.into();
            let (head, body) = halves(&delivery);
            assert!(head.contains("Subject: [") && head.contains("=?utf-8?b?w7w=?="), "{head}");
            let is_own = |line: &str| {
                let name = line.split(':').next().unwrap_or_default();
                line.starts_with(' ') || name.starts_with("Content-") || OWN.contains(&name)
            };
            assert!(head.trim().lines().all(is_own), "{head}");
            assert!(!body.lines().any(|line| line == "." || line.starts_with("MAIL")), "{body}");
        }
    }

    #[test]
    fn an_address_is_ascii_and_one_line() {
        for good in ["ops@example.org", "Operators <ops@example.org>", "Jörg <joerg@example.org>"] {
            assert!(is_mailbox(good), "{good}");
        }
        for bad in
            ["", "ops", "öps@example.org", "a@b.c\r\nBcc: d@e.f", "Ops\r\n <ops@example.org>", "<ops@>"]
        {
            assert!(!is_mailbox(bad), "{bad}");
        }
    }
}
