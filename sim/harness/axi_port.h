// One AXI4 slave port with memory behind it: timing, faults and protocol checks. No Verilator in here.
//
// Every clock cycle: drive() decides what the slave says, the model settles, the master's half is filled in, and
// step() carries out the handshakes of the clock edge.
#pragma once

#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace spikeloom {

constexpr unsigned kBytes = SPK_DATA_BYTES;  // in a beat
constexpr uint64_t kNever = ~uint64_t{0};
enum Response : uint32_t { kOkay = 0, kSlaveError = 2, kDecodeError = 3 };

// Small, fast, seedable; one per port, so that ports do not disturb each other's sequence.
class Random {
 public:
  void seed(uint64_t value) { state_ = value * 0x9E3779B97F4A7C15u + 1; }
  uint32_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = (state_ ^ (state_ >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  }
  bool chance(double probability) { return probability > 0 && next() < probability * 4294967296.0; }
  uint32_t below(uint32_t limit) { return limit ? next() % limit : 0; }

 private:
  uint64_t state_ = 1;
};

// Collects what the accelerator did wrong; the first kKept messages are kept, all are counted.
class Violations {
 public:
  __attribute__((format(printf, 4, 5))) void add(uint64_t cycle, const char* where, const char* format, ...) {
    ++count;
    if (text.size() >= kKept) return;
    char message[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    text.push_back("cycle " + std::to_string(cycle) + ", " + where + ": " + message);
  }
  uint64_t count = 0;
  std::vector<std::string> text;

 private:
  static constexpr size_t kKept = 100;
};

// The DDR: bytes owned by the caller, and for every beat the cycle of its last write (0: never).
struct Memory {
  uint8_t* bytes = nullptr;
  uint64_t size = 0;
  uint32_t* last_write = nullptr;
  bool holds(uint64_t address) const { return address < size && size - address >= kBytes; }
};

// Tokens at a fixed rate; a beat costs one. What is saved while idle is one token at most beside this cycle's.
struct Bucket {
  double rate = 1, tokens = 1;
  void refill() { tokens = tokens > 1 ? 1 + rate : tokens + rate; }
  bool empty() const { return tokens < 1; }
};

struct Options {
  double bandwidth = 1;        // beats per cycle, each direction
  double latency = 20;         // cycles from address (or last write beat) to the first possible answer
  double jitter = 0;           // up to so many cycles more
  double stall_ar = 0, stall_r = 0, stall_aw = 0, stall_w = 0, stall_b = 0;  // probabilities per cycle
  double outstanding = 16;     // bursts accepted in each direction before the first is answered
  double max_burst = 16;       // beats; a longer one is a violation
  double out_of_order = 0;     // nonzero: bursts with different IDs overtake each other
  double check_hazards = 1;    // nonzero: a burst that overlaps another in flight (one of them a write) is a violation
};

struct AddressChannel {
  uint64_t address = 0;
  uint32_t id = 0, length = 0, size = 0, burst = 0;  // length as on the wires: beats - 1
  bool valid = false, ready = false;
  bool same(const AddressChannel& o) const {
    return address == o.address && id == o.id && length == o.length && size == o.size && burst == o.burst;
  }
};
struct WriteChannel {
  uint8_t data[kBytes] = {};
  uint32_t strobe = 0;
  bool last = false, valid = false, ready = false;
  bool same(const WriteChannel& o) const {
    return !memcmp(data, o.data, kBytes) && strobe == o.strobe && last == o.last;
  }
};
struct AnswerChannel {
  uint8_t data[kBytes] = {};
  uint32_t id = 0, response = 0;
  bool last = false, valid = false, ready = false;
};

struct Burst {
  uint64_t address = 0;
  uint32_t id = 0, beats = 0, done = 0;
  uint32_t response = kOkay;
  uint64_t ready_at = 0;
  bool overlaps(const Burst& o) const {
    return address < o.address + uint64_t{o.beats} * kBytes && o.address < address + uint64_t{beats} * kBytes;
  }
};

struct Fault {
  bool write;
  uint32_t response;
  uint64_t beat, cycle;  // kNever: any
};

struct Counters {
  uint64_t read_beats = 0, write_beats = 0, read_bursts = 0, write_bursts = 0;
};

class AxiPort {
 public:
  AddressChannel ar, aw;
  WriteChannel w;
  AnswerChannel r, b;
  Options options;
  Counters counters;
  std::vector<Fault> faults;
  uint64_t stalled_from = kNever;

  void set_up(int index, Memory* memory, Bucket* shared, Violations* violations) {
    index_ = index, memory_ = memory, shared_ = shared, violations_ = violations;
    name_ = "m_axi_gmem" + std::to_string(index);
  }
  void seed(uint64_t value) { random_.seed(value * 64 + static_cast<uint64_t>(index_)); }

  void reset() {
    reads_.clear(), writes_.clear(), unanswered_.clear();
    ar = aw = AddressChannel(), w = WriteChannel(), r = b = AnswerChannel();
    held_ar_ = held_aw_ = AddressChannel(), held_w_ = WriteChannel();
    reading_ = false;
  }

  void drive(uint64_t cycle) {
    read_.rate = write_.rate = options.bandwidth;
    read_.refill(), write_.refill();
    const bool open = cycle < stalled_from;
    ar.ready = open && reads_.size() < options.outstanding && !random_.chance(options.stall_ar);
    aw.ready = open && writes_.size() + unanswered_.size() < options.outstanding && !random_.chance(options.stall_aw);
    w.ready = open && !writes_.empty() && !write_.empty() && !shared_->empty() && !random_.chance(options.stall_w);
    if (!r.valid && open && !random_.chance(options.stall_r)) offer_read(cycle);
    if (!b.valid && open && !random_.chance(options.stall_b)) offer_answer(cycle);
  }

  // `all`: every port, this one included.
  void step(uint64_t cycle, std::vector<AxiPort>& all) {
    check_held(cycle);
    if (w.valid && w.ready) take_write_beat(cycle);
    if (b.valid && b.ready) b.valid = false, unanswered_.erase(unanswered_.begin() + answering_);
    if (r.valid && r.ready) finish_read_beat();
    if (ar.valid && ar.ready) accept(ar, false, cycle, all);
    if (aw.valid && aw.ready) accept(aw, true, cycle, all);
    held_ar_ = ar, held_aw_ = aw, held_w_ = w;
  }

  void check_silent(uint64_t cycle) {
    if (ar.valid || aw.valid || w.valid) violations_->add(cycle, name_.c_str(), "valid is high during reset");
  }

  size_t in_flight() const { return reads_.size() + writes_.size() + unanswered_.size(); }

 private:
  void offer_read(uint64_t cycle) {
    if (!reading_ && !choose(reads_, cycle, &serving_)) return;
    if (read_.empty() || shared_->empty()) return;
    reading_ = true;
    read_.tokens -= 1, shared_->tokens -= 1;
    const Burst& burst = reads_[serving_];
    const uint64_t address = burst.address + uint64_t{burst.done} * kBytes;
    r.id = burst.id, r.last = burst.done + 1 == burst.beats, r.valid = true;
    r.response = memory_->holds(address) ? fault(false, counters.read_beats, cycle) : uint32_t{kDecodeError};
    ++counters.read_beats;
    if (memory_->holds(address)) memcpy(r.data, memory_->bytes + address, kBytes);
    if (r.response != kOkay) memset(r.data, 0xEE, kBytes);
  }

  void finish_read_beat() {
    r.valid = false;
    if (++reads_[serving_].done < reads_[serving_].beats) return;
    reads_.erase(reads_.begin() + serving_);
    reading_ = false;
  }

  void offer_answer(uint64_t cycle) {
    if (!choose(unanswered_, cycle, &answering_)) return;
    b.id = unanswered_[answering_].id, b.response = unanswered_[answering_].response, b.valid = true;
  }

  // Index of a burst whose time has come: the oldest, or with `out_of_order` any that is the oldest of its ID.
  bool choose(const std::deque<Burst>& bursts, uint64_t cycle, size_t* index) {
    if (bursts.empty()) return false;
    if (options.out_of_order == 0) return *index = 0, bursts[0].ready_at <= cycle;
    uint32_t seen = 0, candidates = 0;
    for (size_t i = 0; i < bursts.size(); ++i) {
      const bool oldest = !(seen >> bursts[i].id & 1);
      seen |= 1u << bursts[i].id;
      if (oldest && bursts[i].ready_at <= cycle && random_.below(++candidates) == 0) *index = i;
    }
    return candidates > 0;
  }

  void take_write_beat(uint64_t cycle) {
    Burst& burst = writes_.front();
    const uint64_t address = burst.address + uint64_t{burst.done} * kBytes;
    const uint32_t response = memory_->holds(address) ? fault(true, counters.write_beats, cycle) : uint32_t{kDecodeError};
    write_.tokens -= 1, shared_->tokens -= 1;
    ++counters.write_beats, ++burst.done;
    if (response != kOkay) burst.response = response;
    if (response == kOkay) store(address, cycle);
    if (w.last != (burst.done == burst.beats)) {
      violations_->add(cycle, name_.c_str(), "wlast is %d in beat %u of %u", w.last, burst.done, burst.beats);
    }
    if (burst.done < burst.beats) return;
    burst.ready_at = cycle + delay();
    unanswered_.push_back(burst);
    writes_.pop_front();
  }

  void store(uint64_t address, uint64_t cycle) {
    for (unsigned i = 0; i < kBytes; ++i) {
      if (w.strobe >> i & 1) memory_->bytes[address + i] = w.data[i];
    }
    if (w.strobe) memory_->last_write[address / kBytes] = static_cast<uint32_t>(cycle);
  }

  uint64_t delay() { return static_cast<uint64_t>(options.latency) + random_.below(static_cast<uint32_t>(options.jitter) + 1); }

  uint32_t fault(bool write, uint64_t beat, uint64_t cycle) {
    for (size_t i = 0; i < faults.size(); ++i) {
      if (faults[i].write != write || (faults[i].beat != beat && (faults[i].cycle == kNever || cycle < faults[i].cycle))) continue;
      const uint32_t response = faults[i].response;
      faults.erase(faults.begin() + static_cast<long>(i));
      return response;
    }
    return kOkay;
  }

  void accept(const AddressChannel& c, bool write, uint64_t cycle, std::vector<AxiPort>& all) {
    Burst burst;
    burst.address = c.address, burst.id = c.id, burst.beats = c.length + 1, burst.ready_at = cycle + delay();
    check_burst(c, burst, write ? "write" : "read", cycle);
    if (options.check_hazards != 0) check_hazards(burst, write, cycle, all);
    (write ? writes_ : reads_).push_back(burst);
    ++(write ? counters.write_bursts : counters.read_bursts);
  }

  void check_burst(const AddressChannel& c, const Burst& burst, const char* kind, uint64_t cycle) {
    const uint64_t a = c.address, bytes = uint64_t{burst.beats} * kBytes;
    const char* name = name_.c_str();
    if (a % kBytes) violations_->add(cycle, name, "%s at 0x%" PRIx64 " is not aligned to %u bytes", kind, a, kBytes);
    if (1u << c.size != kBytes) violations_->add(cycle, name, "%s at 0x%" PRIx64 " has size %u", kind, a, c.size);
    if (c.burst != 1) violations_->add(cycle, name, "%s at 0x%" PRIx64 " has burst type %u, not INCR", kind, a, c.burst);
    if (burst.beats > options.max_burst) violations_->add(cycle, name, "%s at 0x%" PRIx64 " has %u beats", kind, a, burst.beats);
    if (a / 4096 != (a + bytes - 1) / 4096) {
      violations_->add(cycle, name, "%s at 0x%" PRIx64 " of %u beats crosses a 4 KiB boundary", kind, a, burst.beats);
    }
    if (a + bytes > memory_->size) violations_->add(cycle, name, "%s at 0x%" PRIx64 " is outside the memory", kind, a);
  }

  void check_hazards(const Burst& burst, bool write, uint64_t cycle, const std::vector<AxiPort>& all) {
    for (const AxiPort& port : all) {
      const bool ordered = write && &port == this;  // writes of one port and ID are
      for (const auto* queue : {&port.writes_, &port.unanswered_}) {
        for (const Burst& o : *queue) {
          if (burst.overlaps(o) && !(ordered && o.id == burst.id)) report_hazard(burst, write, o, "write", port, cycle);
        }
      }
      if (!write) continue;
      for (const Burst& o : port.reads_) {
        if (burst.overlaps(o)) report_hazard(burst, write, o, "read", port, cycle);
      }
    }
  }

  void report_hazard(const Burst& burst, bool write, const Burst& o, const char* kind, const AxiPort& port, uint64_t cycle) {
    violations_->add(cycle, name_.c_str(), "%s at 0x%" PRIx64 " overlaps the %s at 0x%" PRIx64 " in flight on %s",
                     write ? "write" : "read", burst.address, kind, o.address, port.name_.c_str());
  }

  // A channel that was valid and not ready must say the same now.
  void check_held(uint64_t cycle) {
    check_channel(held_ar_, ar, "AR", cycle);
    check_channel(held_aw_, aw, "AW", cycle);
    check_channel(held_w_, w, "W", cycle);
  }
  template <typename Channel>
  void check_channel(const Channel& before, const Channel& now, const char* channel, uint64_t cycle) {
    if (!before.valid || before.ready) return;
    if (!now.valid) {
      violations_->add(cycle, name_.c_str(), "%s: valid fell before ready", channel);
    } else if (!now.same(before)) {
      violations_->add(cycle, name_.c_str(), "%s: payload changed before ready", channel);
    }
  }

  int index_ = 0;
  std::string name_;
  Memory* memory_ = nullptr;
  Bucket* shared_ = nullptr;
  Violations* violations_ = nullptr;
  Random random_;
  Bucket read_, write_;
  std::deque<Burst> reads_, writes_, unanswered_;  // accepted; writes_ still lack data, unanswered_ their response
  size_t serving_ = 0, answering_ = 0;             // indices of the bursts on R and on B
  bool reading_ = false;                           // reads_[serving_] has begun and is not over
  AddressChannel held_ar_, held_aw_;
  WriteChannel held_w_;
};

}  // namespace spikeloom
