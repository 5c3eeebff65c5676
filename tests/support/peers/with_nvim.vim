" Neovim as a client: $FSCT_SOCKET, $FSCT_CALLS (JSON); the answers in JSON go to $FSCT_ANSWERS.
function! Binary(value)
  if type(a:value) != v:t_dict || !has_key(a:value, '$bin')
    return a:value
  endif
  let blob = 0z
  for at in range(0, len(a:value['$bin']) - 1, 2)
    call add(blob, str2nr(a:value['$bin'][at : at + 1], 16))
  endfor
  return blob
endfunction

" Neovim makes a string of binary values; the only ones that we get are UUIDs.
function! Plain(value, method)
  if a:method !=# 'get_player_assigned_device' || type(a:value) != v:t_string
    return a:value
  endif
  let text = ''
  for at in range(strlen(a:value))
    let text .= printf('%02x', char2nr(a:value[at]))
  endfor
  return {'$bin': text}
endfunction

let channel = sockconnect('pipe', $FSCT_SOCKET, {'rpc': v:true})
let answers = []
for request in json_decode($FSCT_CALLS)
  let arguments = map(request[1:], 'Binary(v:val)')
  try
    call add(answers, Plain(call('rpcrequest', [channel, request[0]] + arguments), request[0]))
  catch
    call add(answers, {'error': v:exception})
  endtry
endfor
call writefile([json_encode(answers)], $FSCT_ANSWERS)
qall!
