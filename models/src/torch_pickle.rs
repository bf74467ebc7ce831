//! The part of a pickle that describes tensors, read without running anything.
//!
//! A pickle is a program that builds objects, and Python's reader calls whatever it names. This one knows how to build
//! dictionaries, lists, numbers, texts and descriptions of tensors; three names stand for the functions that
//! `torch.save` of a state dict uses, and every other name is refused. No code of the file ever runs.

use std::collections::HashMap;

use tch::Kind;

/// A tensor as a pickle describes it: a view into a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PickledTensor {
    /// The name of the storage's file.
    pub(crate) storage: String,
    /// The type of its elements.
    pub(crate) kind: Kind,
    /// Elements of the storage before the first.
    pub(crate) offset: usize,
    /// The sizes of the axes.
    pub(crate) shape: Vec<i64>,
    /// Elements from one step on an axis to the next.
    pub(crate) strides: Vec<i64>,
}

#[derive(Debug, Clone)]
enum Value {
    Int(i64),
    Text(String),
    /// A function or class by module and name.
    Name(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage {
        kind: Kind,
        key: String,
    },
    Tensor(PickledTensor),
    Mark,
    /// What says nothing about tensors: none, true, false, a fraction.
    Other,
}

/// The tensors of a pickled state dict, in its order. The error says in a fragment what does not fit.
pub(crate) fn read_state_dict(bytes: &[u8]) -> Result<Vec<(String, PickledTensor)>, String> {
    let Value::Dict(entries) = (Machine { bytes, at: 0, stack: Vec::new(), memo: HashMap::new() }).run()? else {
        return Err("it holds no dictionary of tensors".to_owned());
    };
    let mut tensors = Vec::new();
    for (key, value) in entries {
        match (key, value) {
            (Value::Text(name), Value::Tensor(tensor)) => tensors.push((name, tensor)),
            (Value::Text(name), _) => return Err(format!("`{name}` is no tensor")),
            _ => return Err("a tensor's name is no text".to_owned()),
        }
    }
    Ok(tensors)
}

/// A stack machine for the opcodes of protocols 2 to 4 that describe data.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<Value, String> {
        loop {
            match self.byte()? {
                b'.' => return self.pop(),
                // Protocol and frames say nothing about the contents.
                0x80 => drop(self.byte()?),
                0x95 => drop(self.take(8)?),
                b'(' => self.push(Value::Mark),
                b'N' | 0x88 | 0x89 => self.push(Value::Other),
                b'J' => {
                    let number = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()));
                }
                b'K' => {
                    let number = self.byte()?;
                    self.push(Value::Int(number.into()));
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other);
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.text(length as usize)?;
                }
                0x8c => {
                    let length = self.byte()?;
                    self.text(length.into())?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Name(format!("{module}.{name}")));
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.push(Value::Name(format!("{module}.{name}"))),
                    _ => return Err("a name is no text".to_owned()),
                },
                b')' => self.push(Value::Tuple(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items));
                }
                opcode @ 0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or("it ends too early")?;
                    let items = self.stack.split_off(from);
                    self.push(Value::Tuple(items));
                }
                b']' => self.push(Value::List(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.insert(items)?;
                }
                b'q' => {
                    let place = self.byte()?;
                    self.remember(place.into())?;
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.array()?);
                    self.remember(place)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let place = self.byte()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.array()?);
                    self.recall(place)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(storage(id)?);
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.push(apply(function, arguments)?);
                }
                // Attributes of a dictionary, such as a state dict's versions.
                b'b' => drop(self.pop()?),
                opcode => return Err(format!("it uses the instruction 0x{opcode:02x}, which no state dict needs")),
            }
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "it ends too early".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark)).ok_or("it ends too early")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.stack.last_mut() {
            Some(Value::List(list)) => list.extend(items),
            _ => return Err("it appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(entries)) = self.stack.last_mut() else {
            return Err("it inserts into what is no dictionary".to_owned());
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            entries.push((key, value));
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let value = self.stack.last().cloned().ok_or("it ends too early")?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let value = self.memo.get(&place).cloned().ok_or("it recalls what it never saw")?;
        self.push(value);
        Ok(())
    }

    /// A whole number in as few bytes as it needs.
    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.byte()?);
        let digits = self.take(length)?;
        if length > 8 {
            return Err("a number is too large".to_owned());
        }
        let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..length].copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")?.to_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        let line = std::str::from_utf8(self.take(length)?).map_err(|_| "a name is not UTF-8")?.to_owned();
        self.at += 1;
        Ok(line)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were asked for"))
    }

    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or("it ends too early")?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }
}

/// A storage from what torch writes for one: `("storage", torch.FloatStorage, key, device, length)`.
fn storage(id: Value) -> Result<Value, String> {
    let Value::Tuple(parts) = id else { return Err("a storage is not described as torch does".to_owned()) };
    match parts.as_slice() {
        [Value::Text(tag), Value::Name(class), Value::Text(key), ..] if tag == "storage" => {
            let kind = match class.as_str() {
                "torch.DoubleStorage" => Kind::Double,
                "torch.FloatStorage" => Kind::Float,
                "torch.HalfStorage" => Kind::Half,
                "torch.BFloat16Storage" => Kind::BFloat16,
                "torch.LongStorage" => Kind::Int64,
                "torch.IntStorage" => Kind::Int,
                "torch.ByteStorage" => Kind::Uint8,
                "torch.BoolStorage" => Kind::Bool,
                other => return Err(format!("it holds a `{other}`, which is not read")),
            };
            Ok(Value::Storage { kind, key: key.clone() })
        }
        _ => Err("a storage is not described as torch does".to_owned()),
    }
}

/// What the three known functions make of their arguments.
fn apply(function: Value, arguments: Value) -> Result<Value, String> {
    let (Value::Name(function), Value::Tuple(arguments)) = (function, arguments) else {
        return Err("it calls what is no function".to_owned());
    };
    let numbers = |value: &Value| match value {
        Value::Tuple(items) => {
            items.iter().map(|item| if let Value::Int(number) = item { Some(*number) } else { None }).collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    match (function.as_str(), arguments.as_slice()) {
        ("collections.OrderedDict", []) => Ok(Value::Dict(Vec::new())),
        ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        ("torch._utils._rebuild_tensor_v2", [Value::Storage { kind, key }, Value::Int(offset), shape, strides, ..]) => {
            match (usize::try_from(*offset), numbers(shape), numbers(strides)) {
                (Ok(offset), Some(shape), Some(strides)) if shape.len() == strides.len() => {
                    Ok(Value::Tensor(PickledTensor { storage: key.clone(), kind: *kind, offset, shape, strides }))
                }
                _ => Err("a tensor is not described as torch does".to_owned()),
            }
        }
        (other, _) => Err(format!("it calls `{other}`, which no state dict needs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_run_code_is_refused_by_name() {
        // python: pickletools.dis(pickle.dumps(X(), 2)) with __reduce__ returning (os.system, ("true",))
        let evil = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.";
        assert_eq!(read_state_dict(evil), Err("it calls `posix.system`, which no state dict needs".to_owned()));
        let unknown = b"\x80\x02\x81.";
        assert!(read_state_dict(unknown).is_err_and(|error| error.contains("0x81")));
    }

    #[test]
    fn cut_or_foreign_pickles_are_errors_at_every_length() {
        // python: pickle.dumps({"a": 1, "b": [2, -3, 70000]}, 2)
        let whole =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(K\x02J\xfd\xff\xff\xffJp\x11\x01\x00eu.";
        assert_eq!(read_state_dict(whole), Err("`a` is no tensor".to_owned()));
        for length in 0..whole.len() {
            assert!(read_state_dict(&whole[..length]).is_err(), "{length}");
        }
    }
}
