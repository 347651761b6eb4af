//! An XML answer as a flat list of paths and texts, which is all that a test has to know of it.

use quick_xml::Reader;
use quick_xml::events::Event;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// `Root/Child/Leaf` and its text, in order; an element with children has none.
    leaves: Vec<(String, String)>,
    root: String,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("a document in UTF-8");
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        let (mut path, mut leaves, mut held) = (Vec::<String>::new(), Vec::new(), None);
        let mut root = String::new();
        loop {
            match reader.read_event().unwrap_or_else(|error| panic!("{error} in {text}")) {
                Event::Start(start) => {
                    path.push(start.local_name().as_ref().to_owned());
                    if path.len() == 1 {
                        root.clone_from(&path[0]);
                    }
                    held = Some(String::new());
                }
                Event::Text(piece) => {
                    held.iter_mut().for_each(|held: &mut String| held.push_str(&piece));
                }
                Event::GeneralRef(name) => {
                    held.iter_mut().for_each(|held| held.push(character(&name)));
                }
                Event::End(_) => {
                    leaves.extend(held.take().map(|text| (path.join("/"), text)));
                    path.pop();
                }
                Event::Eof => return Self { leaves, root },
                _ => {}
            }
        }
    }

    pub fn root(&self) -> &str {
        &self.root
    }

    /// The texts at this path, in order.
    pub fn all(&self, path: &str) -> Vec<&str> {
        self.leaves.iter().filter(|(known, _)| known == path).map(|(_, text)| text.as_str()).collect()
    }

    /// The one text at this path; None if there is no such element.
    pub fn one(&self, path: &str) -> Option<&str> {
        let found = self.all(path);
        assert!(found.len() <= 1, "{path} stands {} times", found.len());
        found.first().copied()
    }
}

fn character(name: &str) -> char {
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    let found = match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => match name.strip_prefix("#x") {
            Some(digits) => number(digits, 16),
            None => name.strip_prefix('#').and_then(|digits| number(digits, 10)),
        },
    };
    found.unwrap_or_else(|| panic!("&{name}; is no character"))
}
