// What a replay plays before there is an answer of the reader's own to play.
export const SAMPLE_PROMPT = "Explain how a heap works and write one in Python.";

export const SAMPLE_TEXT = `## A heap keeps the smallest item at hand

A **binary heap** is a tree stored in an array. Every parent is at most as large as its children, so the
smallest item is always at index 0. The children of index \`i\` are at \`2i + 1\` and \`2i + 2\`; no pointers
are needed.

| operation | cost | what happens |
|---|---|---|
| look at the smallest | O(1) | read index 0 |
| insert | O(log n) | append, then sift up |
| remove the smallest | O(log n) | move the last item to the root, then sift down |

\`\`\`python
class Heap:
    """A binary min-heap on a list."""

    def __init__(self, items=()):
        self.items = list(items)
        for idx in reversed(range(len(self.items) // 2)):
            self._sift_down(idx)

    def push(self, item):
        self.items.append(item)
        idx = len(self.items) - 1
        while idx > 0 and self.items[idx] < self.items[(idx - 1) // 2]:
            parent = (idx - 1) // 2
            self.items[idx], self.items[parent] = self.items[parent], self.items[idx]
            idx = parent

    def pop(self):
        top, last = self.items[0], self.items.pop()
        if self.items:
            self.items[0] = last
            self._sift_down(0)
        return top

    def _sift_down(self, idx):
        size = len(self.items)
        while True:
            child = 2 * idx + 1
            if child >= size:
                return
            if child + 1 < size and self.items[child + 1] < self.items[child]:
                child += 1
            if self.items[idx] <= self.items[child]:
                return
            self.items[idx], self.items[child] = self.items[child], self.items[idx]
            idx = child
\`\`\`

Why building a heap is linear and not *n* log *n*: most nodes are near the bottom and have almost no way
to fall. Half of them are leaves and do not move at all, a quarter move at most one level, an eighth at most
two, and the sum of that series is below *n*.

1. Use a heap when you need the smallest item again and again while new ones arrive.
2. Use sorting when all items are there from the start and you want all of them in order.
3. Use a balanced tree when you also need to find or remove items in the middle.
`;

// Pieces of about the size of a token.
export function samplePieces(text) {
  return text.match(/\s?[A-Za-z]{1,6}|\d|\s+|[^\sA-Za-z\d]{1,2}/g) ?? [];
}
