//! From changes of documents to what is told of them.

use mayfly_api::{EventView, RunEventView, VpsView};
use mayfly_core::documents::{OperationDoc, Request, TemplateDoc, VpsDoc};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::history::{Happened, HistoryDoc, ended_by_destroy};
use mayfly_core::ids::{Incarnation, VpsId};
use mayfly_engine::Engine;
use mayfly_engine::store::Change;
use serde::de::DeserializeOwned;

/// The one VPS that is told of: not others, and not those that had its number before or have it after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Only {
    id: VpsId,
    title: String,
    incarnation: Incarnation,
    /// The revision in which it came to be.
    from: u64,
}

/// Whether a change is told.
enum Verdict {
    Ours,
    Others,
    /// Another VPS has the number from here on.
    Over,
}

impl Only {
    /// The VPS of that number or host name.
    pub(crate) fn of(engine: &Engine, which: &str) -> Result<Self, Refusal> {
        let doc = engine.vps(which)?;
        let from = engine.came_to_be(&doc)?.ok_or_else(|| gone(&doc.title()))?;
        Ok(Self {
            id: doc.id,
            title: doc.title(),
            incarnation: doc.incarnation,
            from,
        })
    }

    fn judge(&self, revision: u64, content: &Content) -> Verdict {
        if revision < self.from {
            return Verdict::Others;
        }
        let (vps, of) = match content {
            Content::Vps(id, doc) => (*id, doc.as_ref().map(|doc| &doc.incarnation)),
            Content::Operation(Some(op)) => match &op.request {
                Request::Create { new, .. } => (op.vps, Some(&new.doc.incarnation)),
                _ => (op.vps, None),
            },
            Content::Run(run) => (Some(run.vps), Some(&run.incarnation)),
            Content::Operation(None) | Content::Template(_) | Content::Other => (None, None),
        };
        match (vps == Some(self.id), of) {
            (false, _) => Verdict::Others,
            (true, Some(of)) if *of != self.incarnation => Verdict::Over,
            (true, _) => Verdict::Ours,
        }
    }
}

fn gone(title: &str) -> Refusal {
    Refusal::new(
        Code::VpsNotFound,
        format!("VPS {title} is destroyed, and its number is another's"),
        "see `mayfly list`",
    )
}

/// What is told of some changes.
pub(crate) struct Told {
    /// In their order.
    pub(crate) events: Vec<EventView>,
    /// Of which VPS to go on telling.
    pub(crate) only: Option<Only>,
    /// Why nothing more is told.
    pub(crate) over: Option<Refusal>,
}

/// What a change left. What cannot be read (of a newer version) is told without its contents.
enum Content {
    Vps(Option<VpsId>, Option<Box<VpsDoc>>),
    Template(Option<TemplateDoc>),
    Operation(Option<OperationDoc>),
    Run(Box<HistoryDoc>),
    Other,
}

/// Tells changes, in their order; `view` shows a VPS.
pub(crate) fn tell(
    changes: Vec<Change>,
    only: Option<Only>,
    view: impl Fn(VpsDoc) -> VpsView,
) -> Told {
    let mut told = Told {
        events: Vec::new(),
        only,
        over: None,
    };
    for change in changes {
        let (kind, name) = kind_and_name(&change.key);
        let value = change.value.as_deref();
        let content = match kind {
            "vps" => Content::Vps(name.parse().ok(), read(value)),
            "template" => Content::Template(read(value)),
            "operation" => Content::Operation(read(value)),
            // That something is forgotten is nothing that happened.
            "history" => match read(value) {
                Some(run) => Content::Run(run),
                None => continue,
            },
            _ => Content::Other,
        };
        match told
            .only
            .as_ref()
            .map(|only| only.judge(change.revision.0, &content))
        {
            None | Some(Verdict::Ours) => {}
            Some(Verdict::Others) => continue,
            Some(Verdict::Over) => {
                told.over = told.only.as_ref().map(|only| gone(&only.title));
                break;
            }
        }
        let mut event = EventView {
            revision: change.revision.0,
            kind: kind.to_owned(),
            name: name.to_owned(),
            removed: value.is_none(),
            vps: None,
            template: None,
            operation: None,
            run: None,
        };
        match content {
            Content::Vps(_, doc) => event.vps = doc.map(|doc| Box::new(view(*doc))),
            Content::Template(doc) => event.template = doc.map(|doc| Box::new(doc.into())),
            Content::Operation(doc) => {
                let end = doc.as_ref().and_then(ended_by_destroy);
                told.events
                    .extend(end.and_then(|end| run_event(event.revision, end)));
                event.operation = doc.map(|doc| Box::new(doc.into()));
            }
            Content::Run(doc) => {
                // An operation that failed is told as what it is.
                told.events.extend(run_event(event.revision, *doc));
                continue;
            }
            Content::Other => {}
        }
        told.events.push(event);
    }
    told
}

/// That a run began or is over, or what was taken back from its root.
fn run_event(revision: u64, doc: HistoryDoc) -> Option<EventView> {
    let (Happened::Started { run, .. }
    | Happened::Ended { run, .. }
    | Happened::Copies { run, .. }) = &doc.what
    else {
        return None;
    };
    Some(EventView {
        revision,
        kind: "run".to_owned(),
        name: run.to_string(),
        removed: false,
        vps: None,
        template: None,
        operation: None,
        run: Some(Box::new(RunEventView::from(doc))),
    })
}

fn read<T: DeserializeOwned>(value: Option<&str>) -> Option<T> {
    serde_json::from_str(value?).ok()
}

fn kind_and_name(key: &str) -> (&str, &str) {
    let (kind, name) = key
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((key, ""));
    let kind = match kind {
        "templates" => "template",
        "operations" => "operation",
        other => other,
    };
    (kind, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_nouns() {
        assert_eq!(kind_and_name("/vps/11327"), ("vps", "11327"));
        assert_eq!(kind_and_name("/operations/0a"), ("operation", "0a"));
        assert_eq!(
            kind_and_name("/templates/debian-12"),
            ("template", "debian-12")
        );
        assert_eq!(kind_and_name("node"), ("node", ""));
    }
}
