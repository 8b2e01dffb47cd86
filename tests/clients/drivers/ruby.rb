# Ruby's dalli. What a driver is told and answers: `matrix.py`.
require 'dalli'

TIMEOUT_SECONDS = 30
Dalli.logger.level = Logger::FATAL

# Values as they are, without Ruby's marshalling.
RAW = { raw: true }.freeze

class Client
  def initialize(host, port)
    @library = Dalli::Client.new("#{host}:#{port}", socket_timeout: TIMEOUT_SECONDS, down_retry_delay: 0, raw: true)
    @uniques = {}
  end

  def set(key, value, seconds)
    stored?(@library.set(key, value, seconds, RAW))
  end

  def add(key, value, seconds)
    stored?(@library.add(key, value, seconds, RAW))
  end

  def replace(key, value, seconds)
    stored?(@library.replace(key, value, seconds, RAW))
  end

  def append(key, value)
    @library.append(key, value)
  end

  def prepend(key, value)
    @library.prepend(key, value)
  end

  def get(key)
    @library.get(key, RAW)
  end

  def gets(key)
    value, @uniques[key] = @library.get_cas(key)
    value
  end

  def cas(key, value, seconds)
    stored?(@library.set_cas(key, value, @uniques[key], seconds, RAW))
  end

  def incr(key, number)
    @library.incr(key, number)
  end

  def decr(key, number)
    @library.decr(key, number)
  end

  def touch(key, seconds)
    !!@library.touch(key, seconds)
  end

  def gat(key, seconds)
    @library.gat(key, seconds)
  end

  def delete(key)
    @library.delete(key)
  end

  def multiget(*keys)
    @library.get_multi(*keys)
  end

  def multiset(*parts)
    @library.multi { parts.each_slice(2) { |key, value| @library.set(key, value, 1000, RAW) } }
    true
  end

  def quiet_set(key, value, seconds)
    @library.multi { @library.set(key, value, seconds, RAW) }
  end

  def quiet_delete(key)
    @library.multi { @library.delete(key) }
  end

  def stats
    @library.stats.values.first
  end

  def version
    @library.version.values.first
  end

  def flush
    @library.flush.all?
  end

  private

  # It answers with the new unique: false or 0 where nothing was stored.
  def stored?(unique)
    ![false, nil, 0].include?(unique)
  end
end

def text(field)
  field.unpack1('m').force_encoding(Encoding::UTF_8)
end

# Keys are text, values bytes, the rest numbers.
def arguments(operation, fields)
  case operation
  when 'get', 'gets', 'delete', 'multiget', 'quiet_delete' then fields.map { |field| text(field) }
  when 'multiset' then fields.each_slice(2).flat_map { |key, value| [text(key), value.unpack1('m')] }
  when 'incr', 'decr', 'touch', 'gat' then [text(fields[0]), fields[1].to_i]
  else fields.each_with_index.map { |field, index| [text(field), field.unpack1('m'), field.to_i][index] }
  end
end

def answer(found)
  case found
  when true, false then found.to_s
  when nil then 'none'
  when Integer then "number\t#{found}"
  when Hash then ['pairs', *found.flatten.map { |part| [part.to_s].pack('m0') }].join("\t")
  else "value\t#{[found].pack('m0')}"
  end
end

_, host, port = ARGV
client = Client.new(host, port)
$stdout.sync = true
$stdin.each_line do |line|
  operation, *fields = line.chomp.split("\t", -1)
  begin
    found = client.public_send(operation, *arguments(operation, fields))
    puts operation.start_with?('quiet_') ? 'done' : answer(found)
  rescue StandardError => e
    said = "error\t#{e.class}: #{e.message}".tr("\n", ' ')
    warn said
    puts said
  end
end
