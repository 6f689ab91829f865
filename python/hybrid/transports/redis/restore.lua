-- Puts unacknowledged messages back into their queues.
--
-- Whoever finds the record of a message puts the message back, so that it is put back once even if
-- another worker does the same at this moment. The record is removed when the message is in its
-- queues. Where one of these is of another type, message and record stay as they are.
local misfits, restored = {}, 0
-- A full server refuses what takes memory, unless the script has begun to write. This removes
-- nothing.
redis.call('ZREMRANGEBYRANK', KEYS[2], 1, 0)
local kinds = {}
for number = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[number]).ok
  if kind ~= 'list' and kind ~= 'none' then
    kinds[number] = kind
    misfits[#misfits + 1] = KEYS[number]
    misfits[#misfits + 1] = kind
  end
end
local at = 2
while at <= #ARGV do
  local tag, count = ARGV[at], tonumber(ARGV[at + 1])
  local is_recorded = redis.call('HEXISTS', KEYS[1], tag) == 1
  local fits = true
  for place = at + 2, at + 2 * count, 2 do
    if kinds[tonumber(ARGV[place])] then
      fits = false
    end
  end
  if not is_recorded then
    redis.call('ZREM', KEYS[2], tag)
  elseif fits and count > 0 then
    for place = at + 2, at + 2 * count, 2 do
      redis.call(ARGV[1], KEYS[tonumber(ARGV[place])], ARGV[place + 1])
    end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    restored = restored + 1
  end
  at = at + 2 + 2 * count
end
return {restored, misfits}
