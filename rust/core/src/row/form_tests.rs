use super::*;
use proptest::prelude::*;

/// A value as two databases send it, each with numbers of its own, and with those set to 0.
#[derive(Clone, Debug)]
struct Value {
    form: Form,
    bytes: [Vec<u8>; 3],
}

/// The number of a type in the three: a fixed one, or two that vary and 0.
type Oids = [u32; 3];

fn oids() -> impl Strategy<Value = Oids> {
    let varying = FIRST_VARYING..=u32::MAX;
    prop_oneof![
        (0..FIRST_VARYING).prop_map(|oid| [oid; 3]),
        (varying.clone(), varying).prop_map(|(here, there)| [here, there, 0]),
    ]
}

/// Forms and bytes are made together, so that every value has its form.
fn value() -> impl Strategy<Value = Value> {
    let plain = prop::collection::vec(any::<u8>(), 0..12).prop_map(plain);
    plain.prop_recursive(4, 40, 4, |part| {
        prop_oneof![
            (part.clone(), 0..4usize, oids()).prop_map(array),
            prop::collection::vec((part.clone(), any::<bool>(), oids()), 0..4).prop_map(composite),
            (part.clone(), 0..3usize).prop_map(range),
            (part, 0..3usize).prop_map(multirange),
        ]
    })
}

fn made(form: Form, bytes: impl Fn(usize) -> Vec<u8>) -> Value {
    Value {
        form,
        bytes: [bytes(0), bytes(1), bytes(2)],
    }
}

fn plain(bytes: Vec<u8>) -> Value {
    made(Form::Plain, |_| bytes.clone())
}

fn numbers(numbers: &[i32]) -> Vec<u8> {
    numbers.iter().flat_map(|each| each.to_be_bytes()).collect()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&numbers(&[bytes.len() as i32]), bytes].concat()
}

/// So many equal elements and a NULL, or no dimension.
fn array((element, count, oids): (Value, usize, Oids)) -> Value {
    made(Form::Array(element.form.into()), |side| {
        let oid = oids[side] as i32;
        if count == 0 {
            return numbers(&[0, 0, oid]);
        }
        let elements = sized(&element.bytes[side]).repeat(count);
        let head = numbers(&[1, 1, oid, count as i32 + 1, 1, -1]);
        [head, elements].concat()
    })
}

/// Each attribute is its value or NULL.
fn composite(attributes: Vec<(Value, bool, Oids)>) -> Value {
    let forms = attributes.iter().map(|(value, ..)| value.form.clone());
    made(Form::Composite(forms.collect()), |side| {
        let mut bytes = numbers(&[attributes.len() as i32]);
        for (value, there, oids) in &attributes {
            bytes.extend(numbers(&[oids[side] as i32]));
            match there {
                true => bytes.extend(sized(&value.bytes[side])),
                false => bytes.extend(numbers(&[-1])),
            }
        }
        bytes
    })
}

fn range((bound, count): (Value, usize)) -> Value {
    made(Form::Range(bound.form.into()), |side| {
        [vec![2], sized(&bound.bytes[side]).repeat(count)].concat()
    })
}

fn multirange((bound, count): (Value, usize)) -> Value {
    let range = range((bound.clone(), 2));
    made(Form::Multirange(bound.form.into()), |side| {
        let ranges = sized(&range.bytes[side]).repeat(count);
        [numbers(&[count as i32]), ranges].concat()
    })
}

fn text_of(form: &Form) -> String {
    match form {
        Form::Plain => ".".to_owned(),
        Form::Array(part) => format!("[{}", text_of(part)),
        Form::Range(part) => format!("<{}", text_of(part)),
        Form::Multirange(part) => format!("{{{}", text_of(part)),
        Form::Composite(parts) => {
            format!("({})", parts.iter().map(text_of).collect::<String>())
        }
    }
}

fn blanked(form: &Form, bytes: &[u8]) -> Result<Vec<u8>, Misfit> {
    let mut bytes = bytes.to_vec();
    form.blank(&mut bytes)?;
    Ok(bytes)
}

proptest! {
    #[test]
    fn numbers_that_vary_become_0_and_nothing_else_changes(value in value()) {
        let [here, there, without] = value.bytes;
        prop_assert_eq!(blanked(&value.form, &here), Ok(without.clone()));
        prop_assert_eq!(blanked(&value.form, &there), Ok(without));
    }

    #[test]
    fn one_changed_bit_of_a_part_stays_a_difference(
        beside in value(), mut part in prop::collection::vec(any::<u8>(), 1..20), byte: usize,
        bit in 0u8..8,
    ) {
        let of = |part: &[u8]| {
            let attributes = [(beside.clone(), [20_000, 30_000, 0]), (plain(part.to_vec()), [25; 3])];
            let row = composite(attributes.map(|(value, oids)| (value, true, oids)).to_vec());
            array((row, 2, [20_001, 30_001, 0]))
        };
        let here = of(&part);
        let byte = byte % part.len();
        part[byte] ^= 1 << bit;
        let there = of(&part);
        let (one, other) = (
            blanked(&here.form, &here.bytes[0]), blanked(&there.form, &there.bytes[1]),
        );
        prop_assert!(one.is_ok() && other.is_ok());
        prop_assert_ne!(one, other);
    }

    #[test]
    fn a_form_is_read_from_its_text(value in value()) {
        prop_assert_eq!(Form::parse(&text_of(&value.form)), Some(value.form));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\](){}<.x]{0,20}") {
        if let Some(form) = Form::parse(&text) {
            prop_assert_eq!(text_of(&form), text);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(value in value(), bytes: Vec<u8>) {
        let _ = blanked(&value.form, &bytes);
    }

    #[test]
    fn damaged_bytes_make_no_panic_and_keep_their_length(
        value in value(), place: usize, byte: u8, cut: bool,
    ) {
        let [mut bytes, ..] = value.bytes;
        if !bytes.is_empty() {
            let place = place % bytes.len();
            bytes[place] = byte;
            if cut {
                bytes.truncate(place);
            }
        }
        if let Ok(after) = blanked(&value.form, &bytes) {
            prop_assert_eq!(after.len(), bytes.len());
        }
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("c{number}")).collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn moods(oid: i32, mood: &str) -> Vec<u8> {
    [numbers(&[1, 0, oid, 1, 1]), sized(mood.as_bytes())].concat()
}

fn copy(rows: &[[Option<Vec<u8>>; 2]]) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    for row in rows {
        bytes.extend(2i16.to_be_bytes());
        for field in row {
            match field {
                Some(field) => bytes.extend(sized(field)),
                None => bytes.extend(numbers(&[-1])),
            }
        }
    }
    bytes.extend(END);
    bytes
}

#[test]
fn a_copy_of_two_databases_is_the_same_without_their_numbers() {
    let forms = Forms::of(&names(2), &texts(&[".", "[."])).unwrap();
    let of = |oid, mood| {
        let row = [Some(b"1".to_vec()), Some(moods(oid, mood))];
        copy(&[row, [None, None], [None, Some(moods(oid, "sad"))]])
    };
    let here = forms.blanked(&of(16_390, "glad")).unwrap();
    assert_eq!(here, of(0, "glad"));
    assert_eq!(forms.blanked(&of(17_001, "glad")).unwrap(), here);
    assert_ne!(forms.blanked(&of(17_001, "good")).unwrap(), here);
}

#[test]
fn numbers_of_the_servers_own_types_stay() {
    let form = Form::parse("[.").unwrap();
    assert_eq!(blanked(&form, &moods(25, "x")), Ok(moods(25, "x")));
    assert_eq!(
        blanked(&form, &moods(FIRST_VARYING as i32, "x")),
        Ok(moods(0, "x"))
    );
}

#[test]
fn a_value_that_is_not_of_its_form_is_an_error_that_names_the_column() {
    for (text, bytes) in [
        ("[.", numbers(&[1])),
        ("[.", vec![0x80; 12]),
        ("[[.", moods(16_390, "glad")),
        ("(..)", numbers(&[1])),
        ("(.)", numbers(&[1, 25, 9])),
        ("()", numbers(&[0, 0])),
        ("(.)", numbers(&[1, 25, -2])),
        ("{[.", numbers(&[1, -1])),
        ("<[.", Vec::new()),
    ] {
        let forms = Forms::of(&names(2), &texts(&[".", text])).unwrap();
        let error = forms.blanked(&copy(&[[None, Some(bytes)]])).unwrap_err();
        assert_eq!(error.kind(), "protocol");
        assert!(error.to_string().contains("column c1"), "{text} {error}");
    }
}

#[test]
fn what_is_no_form_is_refused_and_plain_columns_cost_nothing() {
    assert!(Forms::of(&names(2), &[]).unwrap().is_empty());
    assert!(
        Forms::of(&names(2), &texts(&[".", "."]))
            .unwrap()
            .is_empty()
    );
    for wrong in ["", "[", "(.", ")", "..", "x", "[.]"] {
        assert!(Forms::of(&names(1), &texts(&[wrong])).is_err(), "{wrong}");
    }
    assert!(Forms::of(&names(2), &texts(&["[."])).is_err());
}
