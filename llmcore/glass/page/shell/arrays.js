// Arrays of the page's data: {d: type, s: shape, b: base64 of little-endian bytes, k: base64 of a scale a row}.

const ARRAYS = new WeakMap();

function bytesOf(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// A typed array with .shape, decoded once.
function arr(packed) {
  if (!ARRAYS.has(packed)) ARRAYS.set(packed, decode(packed));
  return ARRAYS.get(packed);
}

function decode(packed) {
  const buffer = bytesOf(packed.b).buffer;
  let array;
  if (packed.d === "f4") array = new Float32Array(buffer);
  else if (packed.d === "i4") array = new Int32Array(buffer);
  else if (packed.d === "u2") array = Float32Array.from(new Uint16Array(buffer), (n) => n / 65535);
  else {
    const scales = new Float32Array(bytesOf(packed.k).buffer),
      width = packed.s[packed.s.length - 1];
    array = Float32Array.from(new Int8Array(buffer), (n, i) => n * scales[Math.floor(i / width)]);
  }
  array.shape = packed.s;
  return array;
}

// The numbers at the first indices of an array: row(a, 2, 5) is a[2, 5, ...].
function row(array, ...at) {
  let start = 0,
    size = array.length;
  at.forEach((index, axis) => {
    size /= array.shape[axis];
    start += index * size;
  });
  return array.subarray(start, start + size);
}
